"""Prompts and codec by mistral-common, for models that carry Mistral's own tokenizer files.

Its instruct tokenizers (v2 and later) put control tokens round contents that they encode as plain
text. In v1 the markers are plain text themselves; in contents they are broken up with a zero-width
joiner behind the first character: `[/INST]` reads `[\\u200d/INST]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import Tokenizer, decoders, models

from model_runner.errors import BadRequest
from model_runner.transformers.codec import BYTE_OF, Codec, Encode, break_up
from model_runner.types import Message

FILES = (
    "tekken.json",
    *(f"tokenizer.model.{v}" for v in ("v7m1", "v7", "v3m1", "v3", "v2", "v1")),
)
V1_MARKERS = ("[INST]", "[/INST]")
ANCHOR = "\u263a"  # encodes apart from what follows it, as mistral-common's infilling relies on


class MistralPrompts:
    """Chat prompts by mistral-common."""

    def __init__(self, tokenizer: MistralTokenizer[Any, Any, Any, Any, Any]) -> None:
        self._tokenizer = tokenizer
        self._v1 = tokenizer.version == TokenizerVersion.v1

    def render(self, messages: Sequence[Message]) -> list[int]:
        last = len(messages) - 1
        try:
            tokens: list[int] = self._tokenizer.encode_chat_completion(
                ChatCompletionRequest(
                    messages=[self._message(m, last=i == last) for i, m in enumerate(messages)]
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
        self, message: Message, *, last: bool
    ) -> SystemMessage | UserMessage | AssistantMessage:
        text = break_up(message.content, V1_MARKERS) if self._v1 else message.content
        match message.role:
            case "system" | "developer":
                return SystemMessage(content=text)
            case "assistant":
                return AssistantMessage(content=text, prefix=last)
            case _:
                return UserMessage(content=text)


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
