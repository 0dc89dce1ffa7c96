"""OpenAI's Responses: `POST /v1/responses`, streamed and not, without any state here.

Nothing is stored, so there is nothing to refer to: the whole conversation comes in `input`.
`responses_input.py` has the items that it may hold, `responses_output.py` those of the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, ValidationInfo, field_validator

from gateway.exchange import Exchange
from gateway.wire.dialect import (
    Dialect,
    Flag,
    Json,
    Many,
    NotPadded,
    NotStored,
    Number,
    Strict,
    ToolChoice,
    Whole,
    by_form,
    check_choice,
    named_frame,
    refused,
)
from gateway.wire.openai_idle import Idle
from gateway.wire.responses_input import Item, messages_of
from gateway.wire.responses_output import Output
from model_runner.types import (
    FinishReason,
    GenerateRequest,
    Message,
    Sampling,
    Tool,
    Usage,
)

STATELESS = "no answers are kept here; send the whole conversation in `input`"
HOSTED = "this gateway runs nothing of the kind"


class FunctionParam(Strict):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: Flag | None = None


class FunctionChoice(Strict):
    type: Literal["function"]
    name: str


class TextFormat(Strict):
    type: Literal["text"]


class TextConfig(Strict):
    format: TextFormat | None = None


class StreamOptions(Strict):
    include_obfuscation: NotPadded = None


class ResponsesRequest(Idle):
    """The request's body."""

    input: Annotated[
        Annotated[str, Tag("[text]")]
        | Annotated[Annotated[Many[Item], Field(min_length=1)], Tag("[list]")],
        by_form("a text, or a list of items"),
    ]
    instructions: str | None = None
    tools: Many[FunctionParam] | None = None
    tool_choice: ToolChoice[FunctionChoice] | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    include: Many[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    # What would need a memory, or tools of the gateway's own.
    store: NotStored = None
    previous_response_id: Annotated[None, refused(STATELESS)] = None
    conversation: Annotated[None, refused(STATELESS)] = None
    prompt: Annotated[None, refused(STATELESS)] = None
    background: NotStored = None
    max_tool_calls: Annotated[None, refused(HOSTED)] = None
    # Accepted for clients that send them always; without effect, and never sent to the model.
    text: TextConfig | None = None
    truncation: Literal["disabled"] | None = None

    @field_validator("input")
    @classmethod
    def _says_something(cls, value: str | list[Item]) -> str | list[Item]:
        if not isinstance(value, str) and not messages_of(value):
            raise ValueError("there is no message in it")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, FunctionChoice):
            check_choice(value.name, [t.name for t in info.data.get("tools") or ()])
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _needs_include(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("include"):
            raise ValueError("needs `include: [message.output_text.logprobs]`")
        return value

    def neutral(self, tenant: str) -> GenerateRequest:
        given = self.input
        said = (Message("user", given),) if isinstance(given, str) else messages_of(given)
        if self.instructions:
            said = (Message("system", self.instructions), *said)
        choice: str | Json | None = None
        if isinstance(self.tool_choice, FunctionChoice):
            choice = {"type": "function", "function": {"name": self.tool_choice.name}}
        else:
            choice = self.tool_choice
        return GenerateRequest(
            messages=said,
            tools=tuple(
                Tool(t.name, t.description, t.parameters, t.strict) for t in self.tools or ()
            ),
            tool_choice=choice,
            sampling=Sampling(
                max_tokens=self.max_output_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                logprobs=(self.top_logprobs or 0) if self.include else None,
            ),
            tenant=tenant,
        )


class Answer:
    """Writes one exchange's answer. There is one choice."""

    def __init__(
        self,
        body: ResponsesRequest,
        exchange: Exchange,
        model: str,
        annotate: bool,  # noqa: ARG002  (this form has no place for it)
    ) -> None:
        self._body = body
        self._exchange = exchange
        self._model = model
        self._id = f"resp_{token_hex(12)}"
        self._created = int(time.time())
        self._output = Output()
        self._finish: FinishReason | None = None
        self._sent = 0

    async def chunks(self) -> AsyncIterator[Json]:
        async for chunk in self._chunks():
            yield self._numbered(chunk)

    def end(self) -> Iterable[Json]:
        status, _ = self._outcome()
        yield self._numbered({"type": f"response.{status}", "response": self._response()})

    def fault(self, error: Json) -> Json:
        told = {"code": "server_error", "message": error["error"]["message"]}
        failed = self._response() | {"status": "failed", "error": told}
        return self._numbered({"type": "response.failed", "response": failed})

    async def whole(self) -> Json:
        async for _ in self._chunks():
            pass
        return self._response()

    async def _chunks(self) -> AsyncIterator[Json]:
        yield {"type": "response.created", "response": self._response()}
        yield {"type": "response.in_progress", "response": self._response()}
        async for event in self._exchange.events():
            if event.finish_reason is not None:
                self._finish = event.finish_reason
                continue
            for chunk in self._output.say(event):
                yield chunk
        status, _ = self._outcome()
        for chunk in self._output.close(status):
            yield chunk

    def _outcome(self) -> tuple[str, str | None]:
        """The response's status, and why it is incomplete."""
        match self._finish:
            case None:
                return "in_progress", None
            case "content_filter":
                return "incomplete", "content_filter"
            case "length":
                return "incomplete", "max_output_tokens"
        return "completed", None

    def _numbered(self, chunk: Json) -> Json:
        self._sent += 1
        return chunk | {"sequence_number": self._sent - 1}

    def _response(self) -> Json:
        """The response so far. What the caller sent is not repeated, save the tools as screened."""
        request = self._exchange.request
        status, reason = self._outcome()
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": None,
            "metadata": {},
            "output": self._output.json(),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_output_tokens": self._body.max_output_tokens,
            "text": {"format": {"type": "text"}},
            "tool_choice": _choice(request.tool_choice),
            "tools": [_tool(tool) for tool in request.tools],
            "truncation": "disabled",
            "usage": None if self._finish is None else _usage(self._exchange.usage),
        }


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict):
        return {"type": "function", "name": choice["function"]["name"]}
    return choice or "auto"


def _tool(tool: Tool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


DIALECT = Dialect("/v1/responses", ResponsesRequest, Answer, named_frame)
