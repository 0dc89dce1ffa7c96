"""Where each token of a streamed text ends in that text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_APART: Final = 4096  # bytes that text and tokens may be apart
_BLANK: Final = b" "


class Aligner:
    """Ends of tokens in one channel's text, from what the engine says the tokens' bytes are.

    Engines tell tokens and text side by side, and not always alike: a token may come before its
    text (held back as a possible stop string, or half a code point), and some engines leave out a
    token's leading blank. Where in doubt, a token ends later rather than sooner, so that it never
    leaves before text that it is part of.
    """

    def __init__(self) -> None:
        self._length = 0  # code points of text
        self._end = 0  # where the last token ends
        self._uncovered = b""  # text that no token has covered yet
        self._ahead = b""  # tokens whose text has not come yet; one of the two is always empty
        self._waiting = 0  # how many tokens those are, at most
        # Whether the engine leaves out leading blanks: known once we have seen one or the other.
        self._strips = False
        self._keeps = False
        self._lost = False

    def step(self, text: str, tokens: Iterable[bytes]) -> tuple[int, ...] | None:
        """The text gains `text` while `tokens` are told: their ends, in code points.

        None: tokens that came before their text were not what the text says, so that nobody knows
        how far ahead they are; and so from there on.
        """
        if not self._lost:
            self._add(text.encode())
            self._length += len(text)
        ends = tuple(self._place(token) for token in tokens)
        self._lost |= len(self._ahead) > MAX_APART
        return None if self._lost else ends

    def _add(self, data: bytes) -> None:
        while data and self._ahead:
            shared = _common(data, self._ahead)
            data, self._ahead = data[shared:], self._ahead[shared:]
            if not data or not self._ahead:
                break
            if data.startswith(_BLANK):
                data = data[1:]
                self._end += 1
                self._strips = True
            elif self._ahead.startswith(_BLANK) and self._length == 0:
                self._ahead = self._ahead[1:]
                self._end -= 1
            else:
                self._lost = True
                return
        self._uncovered += data
        if not self._ahead:
            self._waiting = 0
        if len(self._uncovered) > MAX_APART:  # an engine that tells few tokens, or none
            self._skip()

    def _place(self, token: bytes) -> int:
        for form in (token, _BLANK + token, token.removeprefix(_BLANK)):
            shared = _common(form, self._uncovered)
            if shared == min(len(form), len(self._uncovered)):
                break
        else:
            self._skip()
            return self._end
        self._strips |= len(form) > len(token)
        self._keeps |= token.startswith(_BLANK)
        self._uncovered = self._uncovered[shared:]
        self._ahead += form[shared:]
        self._waiting += bool(self._ahead)
        self._end += _starts(form)
        # Each token that is ahead may lack a blank.
        return self._end + (self._waiting if self._strips or not self._keeps else 0)

    def _skip(self) -> None:
        """Leave the text so far to the token that did not fit, and to those left out."""
        self._uncovered, self._end = b"", self._length


def _common(a: bytes, b: bytes) -> int:
    """Length of the common prefix."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _starts(data: bytes) -> int:
    """Code points that begin in `data`."""
    return sum(byte & 0xC0 != 0x80 for byte in data)
