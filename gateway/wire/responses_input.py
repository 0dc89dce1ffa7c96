"""What the `input` of OpenAI's Responses may hold, and the messages that it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, Tag

from gateway.json_texts import canonical
from gateway.wire.dialect import Strict, TextOrParts, by_type
from model_runner.types import Message, ToolCall

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = Field(default=None, max_length=0)
    logprobs: list[Any] | None = None  # without effect


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Part = Annotated[
    Annotated[InputText, Tag("[input_text]")]
    | Annotated[OutputText, Tag("[output_text]")]
    | Annotated[Refusal, Tag("[refusal]")],
    by_type(),
]


ResultPart = Annotated[Annotated[InputText, Tag("[input_text]")], by_type()]


class _Echoed(Strict):
    """What items of an earlier answer bear, sent back; without effect."""

    id: str | None = None
    status: Status | None = None


class MessageItem(_Echoed):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOrParts[Part]
    phase: Literal["commentary", "final_answer"] | None = None  # without effect


class CallItem(_Echoed):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    caller: None = None
    namespace: None = None


class ResultItem(_Echoed):
    type: Literal["function_call_output"]
    call_id: str | None = None
    output: TextOrParts[ResultPart]
    caller: None = None
    namespace: None = None


class ReasoningItem(_Echoed):
    """An earlier answer's reasoning, sent back. It is dropped: no chat format takes it."""

    type: Literal["reasoning"]
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: None = None


Item: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("[message]")]
    | Annotated[CallItem, Tag("[function_call]")]
    | Annotated[ResultItem, Tag("[function_call_output]")]
    | Annotated[ReasoningItem, Tag("[reasoning]")],
    by_type(default="message"),
]


def messages_of(items: Iterable[Item]) -> tuple[Message, ...]:
    """The messages; calls stand in the assistant's message before them, as in chat."""
    said: list[Message] = []
    for item in items:
        match item:
            case MessageItem():
                said.append(Message(item.role, _joined(item.content)))
            case CallItem():
                call = ToolCall(item.call_id, item.name, canonical(item.arguments))
                if not said or said[-1].role != "assistant":
                    said.append(Message("assistant", ""))
                said[-1] = replace(said[-1], tool_calls=(*said[-1].tool_calls, call))
            case ResultItem():
                said.append(Message("tool", _joined(item.output), tool_call_id=item.call_id))
    return tuple(said)


def _joined(content: str | Iterable[InputText | OutputText | Refusal]) -> str:
    # The model reads the parts as one text, so that is what is screened.
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content)
