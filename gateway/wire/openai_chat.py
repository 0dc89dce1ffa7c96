"""OpenAI's Chat Completions: `POST /v1/chat/completions`, streamed and not.

Unknown fields are refused by name; a field that is accepted is either sent to the model, and then
screened, or has no effect and says so here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.choice import Event
from gateway.exchange import Exchange
from gateway.filter_results import filter_results, hit_results
from gateway.json_texts import canonical
from gateway.wire.dialect import (
    Dialect,
    Few,
    Flag,
    Json,
    Many,
    NotPadded,
    NotStored,
    Strict,
    TextOrParts,
    ToolChoice,
    Whole,
    check_choice,
    frame,
)
from gateway.wire.openai_idle import Idle
from gateway.wire.sampling import Sampled
from model_runner.types import (
    GenerateRequest,
    Message,
    Role,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    name: str
    arguments: str


class ToolCallParam(Strict):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageParam(Strict):
    role: Role
    content: Annotated[TextOrParts[TextPart] | None, Field(validate_default=True)] = None
    name: str | None = None
    tool_calls: Many[ToolCallParam] | None = None
    tool_call_id: Annotated[str | None, Field(validate_default=True)] = None
    # What clients send back of an earlier answer. A refusal is read as the message's text.
    refusal: str | None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)
    # Dropped: no chat format takes it.
    reasoning_content: str | None = None

    @field_validator("content")
    @classmethod
    def _says_something(cls, value: Any, info: ValidationInfo) -> Any:
        role = info.data.get("role", "assistant")
        if value is None and role != "assistant":
            raise ValueError(f"a message of role `{role}` needs it")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _says_of_which_call(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("role") == "tool":
            raise ValueError("a message of role `tool` needs it")
        return value

    def neutral(self) -> Message:
        content = self.content
        if isinstance(content, list):
            # The model reads the parts as one text, so that is what is screened.
            content = "".join(part.text for part in content)
        return Message(
            role=self.role,
            content=content or self.refusal or "",
            name=self.name,
            tool_calls=tuple(
                ToolCall(c.id, c.function.name, canonical(c.function.arguments))
                for c in self.tool_calls or ()
            ),
            tool_call_id=self.tool_call_id,
        )


class FunctionParam(Strict):
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: Flag | None = None


class ToolParam(Strict):
    type: Literal["function"]
    function: FunctionParam


class StreamOptions(Strict):
    include_usage: Flag | None = None
    include_obfuscation: NotPadded = None


class ResponseFormat(Strict):
    type: Literal["text"]


class ChatRequest(Sampled, Idle):
    """The request's body."""

    messages: Annotated[Many[MessageParam], Field(min_length=1)]
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: Many[ToolParam] | None = None
    tool_choice: ToolChoice[Json] | None = None
    # Accepted for clients that send them always; without effect.
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Few(1)] | None = None
    store: NotStored = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_bound(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_tokens")
        if value is not None and other is not None and value != other:
            raise ValueError("`max_tokens` says otherwise; send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("needs `logprobs: true`")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            tools = info.data.get("tools") or ()
            check_choice(value["function"].get("name"), [t.function.name for t in tools])
        return value

    def neutral(self, tenant: str) -> GenerateRequest:
        tools = tuple(
            Tool(t.function.name, t.function.description, t.function.parameters, t.function.strict)
            for t in self.tools or ()
        )
        return GenerateRequest(
            messages=tuple(message.neutral() for message in self.messages),
            tools=tools,
            tool_choice=self.tool_choice,
            sampling=self.sampling(
                max_tokens=self.max_completion_tokens or self.max_tokens,
                logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            ),
            tenant=tenant,
        )


class Answer:
    """Writes one exchange's answer, as chunks or as one object.

    annotate: add Azure's `prompt_filter_results` and `content_filter_results`.
    """

    def __init__(self, body: ChatRequest, exchange: Exchange, model: str, annotate: bool) -> None:
        self._body = body
        self._exchange = exchange
        self._annotate = annotate
        self._head: Json = {
            "id": f"chatcmpl-{token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    async def chunks(self) -> AsyncIterator[Json]:
        """The stream's chunks. With usage asked for, the last one has it and no choices."""
        for index in range(len(self._exchange.choices)):
            extra = (
                {"prompt_filter_results": await self._prompt_results()} if self._annotate else {}
            )
            yield self._chunk(index, {"role": "assistant", "content": ""}) | (
                extra if not index else {}
            )
        async for event in self._exchange.events(signals=True):
            if event.signals:
                yield self._signal(event)
                continue
            if event.finish_reason is None:
                yield self._chunk(event.index, _delta(event), _logprobs([event]))
                continue
            if self._annotate:
                results = await self._results(event.index)
                chunk = self._chunk(event.index, {})
                chunk["choices"][0]["content_filter_results"] = results
                yield chunk
            yield self._chunk(event.index, {}, finish_reason=event.finish_reason)
        if self._body.stream_options and self._body.stream_options.include_usage:
            last = self._head | {"object": "chat.completion.chunk", "choices": []}
            yield last | {"usage": usage_of(self._exchange.usage)}

    def end(self) -> Iterable[Json]:
        return ()  # `[DONE]` says it

    def fault(self, error: Json) -> Json:
        return error

    async def whole(self) -> Json:
        """The same events as one object."""
        events: list[list[Event]] = [[] for _ in self._exchange.choices]
        async for event in self._exchange.events():
            events[event.index].append(event)
        choices = []
        for index, said in enumerate(events):
            choice: Json = {
                "index": index,
                "message": _message(said),
                "logprobs": _logprobs(said) if self._body.logprobs else None,
                "finish_reason": said[-1].finish_reason,
            }
            if self._annotate:
                choice["content_filter_results"] = await self._results(index)
            choices.append(choice)
        answer = self._head | {
            "object": "chat.completion",
            "choices": choices,
            "usage": usage_of(self._exchange.usage),
        }
        if self._annotate:
            answer["prompt_filter_results"] = await self._prompt_results()
        return answer

    def _chunk(
        self,
        index: int,
        delta: Json,
        logprobs: Json | None = None,
        finish_reason: str | None = None,
    ) -> Json:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def _signal(self, event: Event) -> Json:
        """What was found in text that left before, as Azure's asynchronous filter tells it.

        Offsets count characters of the channel; `check_offset` never goes back.
        """
        spans = [hit.finding.span for hit in event.signals]
        chunk = self._chunk(event.index, {})
        chunk["choices"][0] |= {
            "content_filter_results": hit_results(event.signals),
            "content_filter_offsets": {
                "check_offset": event.checked,
                "start_offset": min(span.start for span in spans),
                "end_offset": max(span.end for span in spans),
            },
        }
        return chunk

    async def _results(self, index: int) -> Json:
        choice = self._exchange.choices[index]
        await choice.judge()
        return filter_results(verdict for _, verdict in choice.verdicts)

    async def _prompt_results(self) -> list[Json]:
        verdicts = (verdict for _, verdict in await self._exchange.prompt_verdicts())
        return [{"prompt_index": 0, "content_filter_results": filter_results(verdicts)}]


def _delta(event: Event) -> Json:
    match event.channel.kind:
        case "content":
            return {"content": event.text}
        case "reasoning":
            return {"reasoning_content": event.text}
        case "refusal":
            return {"refusal": event.text}
    return {"tool_calls": [{"index": event.channel.index} | _tool_call(event)]}


def _tool_call(event: Event) -> Json:
    call: Json = {"function": {"arguments": event.text}}
    if event.tool is not None:
        call |= {"id": event.tool.id, "type": "function"}
        call["function"]["name"] = event.tool.name
    return call


def _message(said: list[Event]) -> Json:
    def joined(kind: str) -> str:
        return "".join(event.text for event in said if event.channel.kind == kind)

    calls = [_tool_call(event) for event in said if event.channel.kind == "tool_call"]
    content = joined("content")
    message: Json = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": joined("refusal") or None,
    }
    if reasoning := joined("reasoning"):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _logprobs(said: list[Event]) -> Json | None:
    content = [_token(t) for e in said if e.channel.kind == "content" for t in e.logprobs]
    refusal = [_token(t) for e in said if e.channel.kind == "refusal" for t in e.logprobs]
    return {"content": content, "refusal": refusal or None} if content or refusal else None


def _token(token: TokenLogprob) -> Json:
    top = [{"token": a.text, "logprob": a.logprob, "bytes": list(a.bytes)} for a in token.top]
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.bytes),
        "top_logprobs": top,
    }


def usage_of(usage: Usage) -> Mapping[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


DIALECT = Dialect(
    "/v1/chat/completions",
    ChatRequest,
    Answer,
    frame,
    done=b"data: [DONE]\n\n",
    annotates=True,
)
