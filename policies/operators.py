"""What stands in the place of a redacted span: a tag, a mask, a keyed hash or a fixed text.

An operator sees the text that it replaces, and nothing else. `keep` says how many characters of it
may be shown; where findings merge, the least of theirs binds whichever operator is used, so that a
mask never shows what another rule hides.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Protocol

#: Characters that a mask leaves as they are, beside white space: how numbers and names are grouped.
SEPARATORS = frozenset("-./:@()+,")
#: Hexadecimal digits of a keyed hash (64 bits: a repeat by chance among a million texts is rarer
#: than one in ten million).
DIGITS = 16


class Operator(Protocol):
    """Makes a placeholder. `keep`: characters of the original that it may show."""

    @property
    def keep(self) -> int: ...

    def replace(self, text: str, category: str, keep: int) -> str:
        """What stands for `text`, found as `category`; shows at most `keep` characters of it."""
        ...


@dataclass(frozen=True, slots=True)
class Tag:
    """`[EMAIL]`"""

    keep: int = 0

    def replace(self, text: str, category: str, keep: int) -> str:  # noqa: ARG002
        return f"[{category.upper()}]"


@dataclass(frozen=True, slots=True)
class Mask:
    """`**** **** **** 6467`: the last `keep` characters, no more than half of them.

    Separators and white space stay, so that the form can be read; the length can be, too.
    """

    keep: int = 4

    def replace(self, text: str, category: str, keep: int) -> str:  # noqa: ARG002
        hidden = sum(not _separates(c) for c in text)
        hidden -= min(keep, hidden // 2)
        out = []
        for c in text:
            if _separates(c):
                out.append(c)
            else:
                out.append("*" if hidden > 0 else c)
                hidden -= 1
        return "".join(out)


@dataclass(frozen=True, slots=True)
class Hash:
    """`[EMAIL:3f2a…]`: the same text gives the same digits, and only the key's owner can try texts.

    HMAC-SHA-256 (RFC 2104), cut to 64 bits, of the name, the category and the text: hashes under
    different names cannot be joined.
    """

    name: str
    key: bytes = field(repr=False)
    keep: int = 0

    def replace(self, text: str, category: str, keep: int) -> str:  # noqa: ARG002
        said = "\0".join((self.name, category, text)).encode("utf-8", "surrogatepass")
        digest = hmac.digest(self.key, said, "sha256").hex()
        return f"[{category.upper()}:{digest[:DIGITS]}]"


@dataclass(frozen=True, slots=True)
class Fixed:
    """The policy's own words, or nothing at all."""

    text: str
    keep: int = 0

    def replace(self, text: str, category: str, keep: int) -> str:  # noqa: ARG002
        return self.text


def _separates(character: str) -> bool:
    return character in SEPARATORS or character.isspace()


TAG = Tag()
