"""Where each token of a streamed text ends in that text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_UNCOVERED: Final = 4096  # bytes


class Aligner:
    """Ends of tokens in one channel's text, from what the engine says the tokens' bytes are.

    Engines tell tokens and text side by side, and not always alike: a token may come before its
    text (held back as a possible stop string, or half a code point), and some engines leave out a
    token's leading blank. A token that fits nowhere ends where the text so far ends, so that it is
    never placed before text that it might be part of.
    """

    def __init__(self) -> None:
        self._length = 0  # code points of text
        self._end = 0  # where the last token ends
        self._uncovered = b""  # text that no token has covered yet
        self._ahead = b""  # tokens whose text has not come yet

    def step(self, text: str, tokens: Iterable[bytes]) -> tuple[int, ...]:
        """The text gains `text` while `tokens` are told: their ends, in code points."""
        self._length += len(text)
        self._add(text.encode())
        return tuple(self._place(token) for token in tokens)

    def _add(self, data: bytes) -> None:
        shared = min(len(data), len(self._ahead))
        if data[:shared] != self._ahead[:shared]:
            self._resync()
            return
        self._ahead = self._ahead[shared:]
        self._uncovered += data[shared:]
        if len(self._uncovered) > MAX_UNCOVERED:  # an engine that tells few tokens, or none
            self._resync()

    def _place(self, token: bytes) -> int:
        for form in (token, b" " + token, token.removeprefix(b" ")):
            shared = min(len(form), len(self._uncovered))
            if form[:shared] == self._uncovered[:shared] and (shared or form is token):
                self._uncovered = self._uncovered[shared:]
                self._ahead += form[shared:]
                self._end += _starts(form)
                return self._end
        self._resync()
        return self._end

    def _resync(self) -> None:
        self._uncovered, self._ahead, self._end = b"", b"", self._length


def _starts(data: bytes) -> int:
    """Code points that begin in `data`."""
    return sum(byte & 0xC0 != 0x80 for byte in data)
