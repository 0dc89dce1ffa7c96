"""Cuts text that grows into windows at offsets that depend on the text alone.

A window ends behind a sentence's end (closing punctuation, seen together with the white space that
follows), behind a line break, or, if that is asked for, behind a clause's end in a long sentence.
Where none comes, it ends behind the last white space before `limit` characters, or at `limit`.
Windows tile the text. Arrivals never move an end, so that a filter that scores windows says the
same however the text was cut.
"""

from __future__ import annotations

import regex

from filters.types import Span

_END = regex.compile(r"""[.!?…]["'»”’)\]]*(?=\s)|[。！？]|\n""")
_CLOSED = regex.compile(r"""(?:[.!?…]["'»”’)\]]*|[。！？])\s*\Z""")
_CLAUSE = regex.compile(r"""[,;:–—]["'»”’)\]]*(?=\s)|[，；：、]""")
_LAST_SPACE = regex.compile(r"(?r)\s")


def ends_sentence(text: str) -> bool:
    """Whether closing punctuation stands at the end, behind which another sentence may begin."""
    return _CLOSED.search(text) is not None


class Windows:
    """The windows of one text.

    limit: characters a window has at most. sentences: whether windows end with sentences; else only
        the limit ends them, and the text's end.
    clause: past so many characters, the end of a clause ends a window too; None: never.
    """

    def __init__(
        self, limit: int = 400, *, sentences: bool = True, clause: int | None = None
    ) -> None:
        self._clause = clause
        self._limit = limit
        self._sentences = sentences
        self._text = ""
        self._at = 0  # in `_text`: where the open window begins
        self.start = 0  # in the whole text: the same

    def feed(self, text: str, *, final: bool) -> list[tuple[Span, str]]:
        """Add `text`; return the windows that are complete now, with their texts."""
        self._text = self._text[self._at :] + text
        self._at = 0
        windows = []
        while (end := self._next(final=final)) > self._at:
            window = self._text[self._at : end]
            windows.append((Span(self.start, self.start + len(window)), window))
            self.start += len(window)
            self._at = end
        return windows

    def _next(self, *, final: bool) -> int:
        # Searching the open window again with each feed is bounded by `limit`. One character past
        # the limit is read, so that an end at the limit is seen with its white space.
        at, limit = self._at, self._at + self._limit
        found = _END.search(self._text, at, limit + 1) if self._sentences else None
        if self._clause is not None:
            part = _CLAUSE.search(self._text, at + self._clause, limit + 1)
            # Whichever comes first; what is not there yet comes later.
            if part is not None and (found is None or part.end() < found.end()):
                found = part
        if found is not None and found.end() <= limit:
            return int(found.end())
        if len(self._text) > limit:
            space = _LAST_SPACE.search(self._text, at, limit)
            return int(space.end()) if space else limit
        return len(self._text) if final else at


class Whole:
    """One window: the whole text, once it is over."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self.start = 0

    def feed(self, text: str, *, final: bool) -> list[tuple[Span, str]]:
        """Add `text`; return the window if that was the last."""
        self._said.append(text)
        if not final:
            return []
        whole = "".join(self._said)
        self.start = len(whole)
        return [(Span(0, len(whole)), whole)]
