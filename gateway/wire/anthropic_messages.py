"""Anthropic's Messages: `POST /v1/messages`, streamed and not.

A last message of the assistant's own is continued. Reasoning is not asked for here (`thinking` is
refused), so what an engine writes of it is left out. `anthropic_input.py` has the messages.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, ValidationInfo, field_validator

from gateway.choice import Event
from gateway.exchange import Exchange
from gateway.wire.anthropic_input import CacheControl, MessageParam, Texts, joined, messages_of
from gateway.wire.dialect import (
    Dialect,
    Flag,
    Generate,
    Json,
    Many,
    Number,
    Strict,
    Whole,
    by_type,
    check_choice,
    named_frame,
    only,
)
from gateway.wire.sampling import TopK
from model_runner.types import FinishReason, GenerateRequest, Message, Sampling, Tool


class ToolParam(Strict):
    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: Json
    strict: Flag | None = None
    cache_control: CacheControl | None = None


class _Choice(Strict):
    disable_parallel_tool_use: Annotated[Literal[False] | None, only(False, "must be false")] = None


class AutoChoice(_Choice):
    type: Literal["auto"]

    def neutral(self) -> str | Json:
        return "auto"


class AnyChoice(_Choice):
    type: Literal["any"]

    def neutral(self) -> str | Json:
        return "required"


class NoChoice(Strict):
    type: Literal["none"]

    def neutral(self) -> str | Json:
        return "none"


class ToolChoice(_Choice):
    type: Literal["tool"]
    name: str

    def neutral(self) -> str | Json:
        return {"type": "function", "function": {"name": self.name}}


class Metadata(Strict):
    user_id: str | None = None


class NoThinking(Strict):
    type: Literal["disabled"]


class MessagesRequest(Generate):
    """The request's body."""

    messages: Annotated[Many[MessageParam], Field(min_length=1)]
    max_tokens: Annotated[Whole, Field(ge=1)]
    system: Texts | None = None
    temperature: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(None, max_length=4)
    tools: Many[ToolParam] | None = None
    tool_choice: (
        Annotated[
            Annotated[AutoChoice, Tag("[auto]")]
            | Annotated[AnyChoice, Tag("[any]")]
            | Annotated[NoChoice, Tag("[none]")]
            | Annotated[ToolChoice, Tag("[tool]")],
            by_type(),
        ]
        | None
    ) = None
    # Accepted for clients that send them always; without effect, and never sent to the model.
    thinking: NoThinking | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: CacheControl | None = None

    @field_validator("tool_choice")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, ToolChoice):
            check_choice(value.name, [t.name for t in info.data.get("tools") or ()])
        return value

    def neutral(self, tenant: str) -> GenerateRequest:
        said = messages_of(self.messages)
        if self.system:
            said = (Message("system", joined(self.system)), *said)
        return GenerateRequest(
            messages=said,
            tools=tuple(
                Tool(t.name, t.description, t.input_schema, t.strict) for t in self.tools or ()
            ),
            tool_choice=self.tool_choice.neutral() if self.tool_choice else None,
            sampling=Sampling(
                max_tokens=self.max_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=self.top_k,
                stop=tuple(self.stop_sequences or ()),
            ),
            tenant=tenant,
        )


class Answer:
    """Writes one exchange's answer. There is one choice, and a block for each of its channels."""

    def __init__(
        self,
        body: MessagesRequest,  # noqa: ARG002
        exchange: Exchange,
        model: str,
        annotate: bool,  # noqa: ARG002  (this form has no place for it)
    ) -> None:
        self._exchange = exchange
        self._model = model
        self._id = f"msg_{token_hex(12)}"
        self._blocks: dict[tuple[str, int], Json] = {}
        self._finish: FinishReason | None = None

    async def chunks(self) -> AsyncIterator[Json]:
        yield {"type": "message_start", "message": self._message()}
        async for event in self._exchange.events():
            if event.finish_reason is not None:
                self._finish = event.finish_reason
            elif event.channel.kind != "reasoning":
                for chunk in self._say(event):
                    yield chunk
        for index, block in enumerate(self._blocks.values()):
            if block["type"] == "text":
                yield {"type": "content_block_stop", "index": index}

    def end(self) -> Iterable[Json]:
        message = self._message()
        ended = ("stop_reason", "stop_sequence", "stop_details")
        yield {
            "type": "message_delta",
            "delta": {name: message[name] for name in ended},
            "usage": message["usage"],
        }
        yield {"type": "message_stop"}

    def fault(self, error: Json) -> Json:
        return error

    async def whole(self) -> Json:
        async for _ in self.chunks():
            pass
        return self._message()

    def _say(self, event: Event) -> Iterable[Json]:
        key = (event.channel.kind, event.channel.index)
        new = key not in self._blocks
        index = list(self._blocks).index(key) if not new else len(self._blocks)
        if event.channel.kind == "tool_call":
            yield from self._call(index, event)
            return
        block = self._blocks.setdefault(key, {"type": "text", "text": ""})
        if new:
            yield {"type": "content_block_start", "index": index, "content_block": dict(block)}
        if event.text:
            block["text"] += event.text
            delta = {"type": "text_delta", "text": event.text}
            yield {"type": "content_block_delta", "index": index, "delta": delta}

    def _call(self, index: int, event: Event) -> Iterable[Json]:
        """A call comes whole, in one event."""
        tool = event.tool
        block: Json = {
            "type": "tool_use",
            "id": tool.id if tool else "",
            "name": tool.name if tool else "",
            "input": _input(event.text),
        }
        self._blocks[event.channel.kind, event.channel.index] = block
        start = block | {"input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        text = json.dumps(block["input"], ensure_ascii=False)
        delta = {"type": "input_json_delta", "partial_json": text}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}

    def _message(self) -> Json:
        """The message so far."""
        usage = self._exchange.usage
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": list(self._blocks.values()),
            "stop_reason": _REASONS[self._finish] if self._finish else None,
            # Engines do not say which stop string ended the text.
            "stop_sequence": None,
            "stop_details": _REFUSED if self._finish == "content_filter" else None,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "output_tokens": usage.completion_tokens,
            },
        }


_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_REFUSED: Json = {
    "type": "refusal",
    "category": None,
    "explanation": "This answer was stopped by the gateway's policy.",
}
_TYPES = {
    400: "invalid_request_error",
    405: "invalid_request_error",
    415: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _input(arguments: str) -> Json:
    """A call's arguments as the object that this form wants; what is none goes in as text."""
    try:
        parsed: Any = json.loads(arguments or "{}")
        json.dumps(parsed, ensure_ascii=False).encode()  # half a character has no UTF-8
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"INVALID_JSON": arguments}


def error_form(status: int, fields: Json) -> Json:
    """Anthropic's envelope; the fields that are OpenAI's alone come beside, where they say more."""
    kind = _TYPES.get(status, "api_error")
    if fields["code"] == "overloaded":
        kind = "overloaded_error"
    more = {k: v for k, v in fields.items() if k not in {"type", "message"} and v is not None}
    return {"type": "error", "error": {"type": kind, "message": fields["message"]} | more}


DIALECT = Dialect(
    "/v1/messages",
    MessagesRequest,
    Answer,
    named_frame,
    waiting=named_frame({"type": "ping"}),
    error=error_form,
)
