"""Prompts and codec by mistral-common, for models that carry Mistral's own tokenizer files.

Its instruct tokenizers (v2 and later) put control tokens round contents that they encode as plain
text. In v1 the markers are plain text themselves; in contents they are broken up with a zero-width
joiner behind the first character: `[/INST]` reads `[\\u200d/INST]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall
from mistral_common.protocol.instruct.tool_calls import Tool as FunctionTool
from mistral_common.protocol.instruct.tool_calls import ToolCall as Call
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import Tokenizer, decoders, models

from model_runner.errors import BadRequest
from model_runner.transformers.calls import CallTokens, short
from model_runner.transformers.codec import BYTE_OF, Codec, Encode, break_up
from model_runner.types import Message, Tool

FILES = (
    "tekken.json",
    *(f"tokenizer.model.{v}" for v in ("v7m1", "v7", "v3m1", "v3", "v2", "v1")),
)
V1_MARKERS = ("[INST]", "[/INST]")
#: Control tokens: before calls, before a call's arguments, before its id.
CALLS, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
ANCHOR = "\u263a"  # encodes apart from what follows it, as mistral-common's infilling relies on


class MistralPrompts:
    """Chat prompts by mistral-common."""

    def __init__(self, tokenizer: MistralTokenizer[Any, Any, Any, Any, Any]) -> None:
        self._tokenizer = tokenizer
        self._v1 = tokenizer.version == TokenizerVersion.v1
        # Until then a message of the assistant had words or calls, not both.
        self._both = tokenizer.version >= TokenizerVersion.v7
        self.calls = _call_tokens(tokenizer)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        last = len(messages) - 1
        # v2 tells the model by its name whose result it is.
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        try:
            tokens: list[int] = self._tokenizer.encode_chat_completion(
                ChatCompletionRequest(
                    messages=[
                        self._message(m, names, last=i == last) for i, m in enumerate(messages)
                    ],
                    tools=[_tool(tool) for tool in tools] or None,
                )
            ).tokens
        except (MistralCommonException, ValueError, AssertionError) as error:
            # their messages quote contents
            raise BadRequest(
                f"the model's chat format does not take these messages ({type(error).__name__})",
                "messages",
            ) from None
        return tokens

    def _message(
        self, message: Message, names: Mapping[str, str], *, last: bool
    ) -> SystemMessage | UserMessage | AssistantMessage | ToolMessage:
        text = break_up(message.content, V1_MARKERS) if self._v1 else message.content
        match message.role:
            case "system" | "developer":
                return SystemMessage(content=text)
            case "assistant":
                calls = [
                    Call(id=short(c.id), function=FunctionCall(name=c.name, arguments=c.arguments))
                    for c in message.tool_calls
                ]
                said = text if self._both or not calls else None
                return AssistantMessage(content=said, tool_calls=calls or None, prefix=last)
            case "tool":
                given = message.tool_call_id or ""
                name = message.name or names.get(given)
                return ToolMessage(content=text, tool_call_id=short(given), name=name)
            case _:
                return UserMessage(content=text)


def _tool(tool: Tool) -> FunctionTool:
    return FunctionTool(
        function=Function(
            name=tool.name,
            description=tool.description or "",
            parameters=dict(tool.parameters or {}),
        )
    )


def _call_tokens(tokenizer: MistralTokenizer[Any, Any, Any, Any, Any]) -> CallTokens | None:
    version, token = tokenizer.version, tokenizer.instruct_tokenizer.tokenizer.get_special_token
    if version == TokenizerVersion.v1:
        return None
    try:
        return CallTokens(
            token(CALLS),
            arguments=token(ARGUMENTS) if version >= TokenizerVersion.v11 else None,
            id=token(CALL_ID) if version == TokenizerVersion.v11 else None,
        )
    except ValueError:  # a vocabulary without them
        return None


def load(path: str | Path) -> MistralTokenizer[Any, Any, Any, Any, Any]:
    """From tekken.json or a versioned sentencepiece model."""
    return MistralTokenizer.from_file(path)


def codec_of(tokenizer: MistralTokenizer[Any, Any, Any, Any, Any]) -> Codec:
    """Encoders of mistral-common, which read no control tokens; a decoder of its vocabulary."""
    raw: Any = tokenizer.instruct_tokenizer.tokenizer
    special = frozenset(i for i in range(raw.n_words) if raw.is_special(i))
    byte_level = hasattr(raw, "id_to_byte_piece")  # tekken

    def encode(text: str) -> list[int]:
        ids: list[int] = raw.encode(text, bos=False, eos=False)
        return ids

    return Codec(
        decoder=_tekken_decoder(raw) if byte_level else _sentencepiece_decoder(raw),
        encode=encode,
        extend=encode if byte_level else _without_space(encode),
        segment=encode,
        control={raw.id_to_piece(i): i for i in special},
        special=special,
        bos=raw.bos_id,
        eos=raw.eos_id,
        byte_level=byte_level,
    )


def _without_space(encode: Encode) -> Encode:
    """sentencepiece puts a space before a text; not so behind an anchor."""
    anchor = encode(ANCHOR)

    def extend(text: str) -> list[int]:
        return encode(ANCHOR + text)[len(anchor) :]

    return extend


def _tekken_decoder(raw: Any) -> Tokenizer:
    letters = {byte: letter for letter, byte in BYTE_OF.items()}
    vocabulary: dict[str, int] = {}
    for i in range(raw.num_special_tokens, raw.n_words):
        piece: bytes = raw.id_to_byte_piece(i, SpecialTokenPolicy.RAISE)
        vocabulary["".join(letters[byte] for byte in piece)] = i
    for i in range(raw.num_special_tokens):
        vocabulary.setdefault(raw.id_to_piece(i), i)
    return _decoder(vocabulary, decoders.ByteLevel())


def _sentencepiece_decoder(raw: Any) -> Tokenizer:
    vocabulary = {raw.id_to_piece(i): i for i in range(raw.n_words)}
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    return _decoder(vocabulary, decoders.Sequence(steps))


def _decoder(vocabulary: dict[str, int], decoder: decoders.Decoder) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.decoder = decoder
    return tokenizer
