"""Text to token ids and back, never reading a control token in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from model_runner.errors import BadRequest

JOINER = "\u200d"  # zero-width joiner: breaks a marker up, and does not show
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_letters()

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, eq=False)
class Codec:
    """A vocabulary with three ways to encode plain text, none of which gives a control token.

    encode: text that starts an answer or a prompt (sentencepiece puts a space in front).
    extend: text that goes on behind other text.
    segment: text right behind a control token in a chat template.
    control: control token text -> id. special: ids that have no text.
    """

    decoder: Tokenizer = field(repr=False)
    encode: Encode
    extend: Encode
    segment: Encode
    control: dict[str, int] = field(repr=False)
    special: frozenset[int] = field(repr=False)
    bos: int | None
    eos: int | None
    byte_level: bool

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.decoder.get_vocab().values()) + 1

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(len(self.bytes_of(token)) for token in range(self.size))

    @cached_property
    def byte_tokens(self) -> frozenset[int]:
        """Tokens of one byte each, as sentencepiece falls back to."""
        if self.byte_level:
            return frozenset()
        vocabulary = self.decoder.get_vocab().items()
        return frozenset(i for token, i in vocabulary if BYTE.fullmatch(token))

    def bytes_of(self, token: int) -> bytes:
        """What the token adds to a text: nothing, if it is special or no token at all."""
        piece = self.decoder.id_to_token(token)
        if piece is None or token in self.special:
            return b""
        if self.byte_level:
            if all(character in BYTE_OF for character in piece):
                return bytes(BYTE_OF[character] for character in piece)
            return piece.encode()  # an added token, written as it is
        if byte := BYTE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return piece.replace("\u2581", " ").encode()


def check_text(text: str, param: str) -> None:
    """Raises BadRequest if this is no text: JSON can spell halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{param} holds half a surrogate pair", param) from None


def break_up(text: str, markers: Iterable[str]) -> str:
    """`text` with a zero-width joiner behind the first character of each marker in it."""
    found = sorted((m for m in markers if m and m in text), key=len, reverse=True)
    if not found:
        return text
    pattern = re.compile("|".join(map(re.escape, found)))
    broken = pattern.sub(lambda match: match[0][0] + JOINER + match[0][1:], text)
    # a marker inside another may be left whole
    return broken if broken == text else break_up(broken, found)


def from_tokenizer(backend: Tokenizer, *, bos: int | None, eos: int | None) -> Codec:
    """From a `tokenizers` tokenizer, as transformers loads it."""
    spec = json.loads(backend.to_str())
    added = spec["added_tokens"]
    kept = [token for token in added if not token["content"].strip()]  # runs of spaces are text
    control = {t["content"]: t["id"] for t in added if t["special"] or t["content"].strip()}
    special = {t["id"] for t in added if t["special"]}
    unknown = spec["model"].get("unk_token")
    plain = {
        **spec,
        "added_tokens": kept,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    first = Tokenizer.from_str(json.dumps(plain))
    inner = Tokenizer.from_str(json.dumps(_unprefixed(plain)))
    forbidden = {i for text, i in control.items() if text != unknown}

    def encoder(tokenizer: Tokenizer) -> Encode:
        def encode(text: str) -> list[int]:
            for variant in (text, break_up(text, control)):
                # As a batch, so that other threads go on meanwhile (0.9 MB take 1.8 s).
                (coded,) = tokenizer.encode_batch([variant], add_special_tokens=False)
                ids: list[int] = coded.ids
                if forbidden.isdisjoint(ids):
                    return ids
            raise BadRequest("a text cannot be encoded without control tokens", "messages")

        return encode

    spaced = _dummy_prefix(spec) == "always"
    byte_level = "ByteLevel" in json.dumps(spec["decoder"])
    return Codec(
        decoder=backend,
        encode=encoder(first),
        extend=encoder(inner),
        segment=encoder(first if spaced else inner),
        control=control,
        special=frozenset(special),
        bos=bos,
        eos=eos,
        byte_level=byte_level,
    )


def _parts(spec: dict[str, Any], key: str, children: str) -> list[dict[str, Any]]:
    part = spec.get(key)
    if part is None:
        return []
    return list(part[children]) if part["type"] == "Sequence" else [part]


def _dummy_prefix(spec: dict[str, Any]) -> str:
    """When sentencepiece's leading space is put: "always", "first" (of the string) or "never"."""
    for part in _parts(spec, "normalizer", "normalizers"):
        if part["type"] == "Prepend":
            return "always"
    for part in _parts(spec, "pre_tokenizer", "pretokenizers"):
        if part["type"] == "Metaspace":
            return str(part["prepend_scheme"])
        if part["type"] == "ByteLevel" and part["add_prefix_space"]:
            return "always"
    return "never"


def _unprefixed(spec: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without the leading space."""
    spec = json.loads(json.dumps(spec))
    normalizers = [p for p in _parts(spec, "normalizer", "normalizers") if p["type"] != "Prepend"]
    if spec.get("normalizer") is not None:
        spec["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    for part in _parts(spec, "pre_tokenizer", "pretokenizers"):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    return spec
