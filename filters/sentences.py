"""The short way to write a filter: one coroutine that looks at one sentence.

class Shouting(SentenceFilter):
    async def find(self, text, context):
        return [self.finding("shouting", 0, len(text))] if text.isupper() else []
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from filters.types import Context, Finding, Piece, Progress, Scope, Span
from filters.windows import Windows


class SentenceFilter(ABC):
    """A filter that is a function of one window of text (see `filters.windows`).

    Subclasses write `find`; spans in its findings count from the window's first character and are
    moved to their place here. `limit`: characters a window has at most.
    """

    scope: Scope = "message"
    immediate = False
    limit = 400

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    async def find(self, text: str, context: Context) -> Sequence[Finding]:
        """Return what is found in `text`; a pure function of its arguments."""

    def finding(self, category: str, start: int, end: int, score: float = 1.0) -> Finding:
        """A finding of this filter on `text[start:end]`."""
        return Finding(self.name, category, Span(start, end), score)

    def open(self, context: Context) -> SentenceScan:
        return SentenceScan(self, context)


class SentenceScan:
    """Streams a SentenceFilter: `settled` is the end of the last window that was looked at."""

    def __init__(self, owner: SentenceFilter, context: Context) -> None:
        self._owner = owner
        self._context = context
        self._windows = Windows(owner.limit)

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        for span, text in self._windows.feed(piece.text, final=final):
            findings += [
                Finding(f.filter, f.category, _moved(f.span, span), f.score, f.note)
                for f in await self._owner.find(text, self._context)
            ]
        return Progress(self._windows.start, findings)

    async def aclose(self) -> None:
        return None


def _moved(inner: Span, window: Span) -> Span:
    """`inner`, counted from the window's start, in the whole text, kept inside the window."""
    start = min(window.start + inner.start, window.end)
    return Span(start, max(start, min(window.start + inner.end, window.end)))
