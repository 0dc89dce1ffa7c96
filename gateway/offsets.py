"""Offsets of a channel's text as its reader has it, behind placeholders of another length."""

from __future__ import annotations

from dataclasses import replace

from filters.types import Span
from policies.types import Hit, Release


class Offsets:
    """Turns offsets in what a model wrote into offsets in what was released of it.

    What lies in a cut becomes its placeholder, whole: no offset tells how long the cut was.
    """

    def __init__(self) -> None:
        self._cuts: list[tuple[Span, int]] = []  # with the placeholder's length
        self._checked = 0

    def add(self, release: Release) -> None:
        lengths = map(len, release.placeholders)
        self._cuts += zip(release.cuts, lengths, strict=True)

    def hit(self, hit: Hit) -> Hit:
        """The same, its span moved."""
        span = hit.finding.span
        moved = Span(self._moved(span.start, last=False), self._moved(span.end, last=True))
        return replace(hit, finding=replace(hit.finding, span=moved))

    def checked(self, at: int) -> int:
        """`at`, moved; never less than before."""
        self._checked = max(self._checked, self._moved(at, last=True))
        return self._checked

    def _moved(self, at: int, *, last: bool) -> int:
        """last: of an offset in a cut, the placeholder's end, not its beginning."""
        by = 0
        for cut, length in self._cuts:
            if at <= cut.start:
                break
            if at < cut.end:
                return cut.start + by + (length if last else 0)
            by += length - len(cut)
        return at + by
