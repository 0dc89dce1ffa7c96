"""What the `messages` of Anthropic's Messages may hold, and the neutral messages they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

from pydantic import Tag

from gateway.wire.dialect import Flag, Json, Many, Strict, by_form, by_type
from model_runner.types import Message, ToolCall


class CacheControl(Strict):
    """Where a cache may cut the prompt; without effect."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextOnly(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


TextBlock: TypeAlias = Annotated[Annotated[TextOnly, Tag("[text]")], by_type()]
#: A text, or a list of blocks that hold nothing else.
Texts: TypeAlias = Annotated[
    Annotated[str, Tag("[text]")] | Annotated[Many[TextBlock], Tag("[list]")],
    by_form("a text, or a list of blocks"),
]


class ToolUse(Strict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: Json
    cache_control: CacheControl | None = None
    caller: None = None
    toolset_name: None = None


class ToolResult(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: Flag | None = None  # without effect
    cache_control: CacheControl | None = None
    toolset_name: None = None


Block: TypeAlias = Annotated[
    Annotated[TextOnly, Tag("[text]")]
    | Annotated[ToolUse, Tag("[tool_use]")]
    | Annotated[ToolResult, Tag("[tool_result]")],
    by_type(),
]


class MessageParam(Strict):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("[text]")] | Annotated[Many[Block], Tag("[list]")],
        by_form("a text, or a list of blocks"),
    ]


def messages_of(given: Iterable[MessageParam]) -> tuple[Message, ...]:
    """The messages. Results of tools become messages of their own, in the order of the blocks."""
    said: list[Message] = []
    for message in given:
        if isinstance(message.content, str):
            said.append(Message(message.role, message.content))
            continue
        texts: list[str] = []
        calls: list[ToolCall] = []
        before = len(said)
        for block in message.content:
            match block:
                case TextOnly():
                    texts.append(block.text)
                case ToolUse():
                    arguments = json.dumps(block.input, ensure_ascii=False)
                    calls.append(ToolCall(block.id, block.name, arguments))
                case ToolResult():
                    if texts:
                        said.append(Message(message.role, "".join(texts)))
                        texts = []
                    content = joined(block.content or "")
                    said.append(Message("tool", content, tool_call_id=block.tool_use_id))
        if texts or calls or len(said) == before:
            said.append(Message(message.role, "".join(texts), tool_calls=tuple(calls)))
    return tuple(said)


def joined(content: str | Iterable[TextOnly]) -> str:
    # The model reads the blocks as one text, so that is what is screened.
    return content if isinstance(content, str) else "".join(block.text for block in content)
