"""Turns findings and how far they are settled into released text. Pure: no clock, no I/O.

The rules of composition, none of which looks at how the text arrived:

- overlapping redactions merge: earliest start, last end, the label of the earliest start, then of
  the rule that stands first in the policy; the placeholder leaves when all is settled up to the
  merged end;
- a block that starts at `b` is decided when all is settled past `b`; the first one counts, what
  stands before it was released, and the verdict keeps what begins at or before it;
- a finding that begins in text already out counts where it reaches new text, from there on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from filters.types import Finding, Span
from policies.rules import Rules
from policies.types import Action, Hit, Release


class Composer:
    """Composes one text. Offsets are absolute: they count `origin` characters already out."""

    def __init__(self, rules: Rules, origin: int = 0) -> None:
        self._rules = rules
        self._origin = origin
        self._text = ""  # what is held, from offset `_out` on
        self._out = origin
        self._length = origin
        self._released: list[str] = []
        self._redactions: list[tuple[Span, int, str]] = []  # span, rule's number, label
        self._undecided: list[tuple[Finding, Hit | None]] = []
        self._block: int | None = None
        self.hits: list[Hit] = []
        self.scores: dict[str, float] = {}
        self.blocked = False

    @property
    def held(self) -> int:
        """Characters that have come and not left."""
        return len(self._text)

    @property
    def text(self) -> str:
        """All that was released."""
        return "".join(self._released)

    def grow(self, text: str) -> None:
        self._text += text
        self._length += len(text)

    def add(self, finding: Finding) -> None:
        """Take a finding; its span is absolute and starts at or after what is out."""
        start = max(finding.span.start, self._origin)
        if finding.span.end <= self._origin and self._origin:
            return  # wholly in text that was out before
        found = self._text[start - self._out : finding.span.end - self._out]
        answer = self._rules.hit(finding, found)
        moved = replace(finding, span=Span(start - self._origin, finding.span.end - self._origin))
        hit = replace(answer[1], finding=moved) if answer else None
        self._undecided.append((moved, hit))
        if answer is None or hit is None:
            return
        if hit.action is Action.BLOCK:
            self._block = start if self._block is None else min(self._block, start)
        elif hit.action is Action.REDACT and finding.span.end > start:
            label = f"[{finding.category.upper()}]"
            self._redactions.append((Span(start, finding.span.end), answer[0], label))

    def refuse(self, finding: Finding, rule: str) -> Release:
        """Block here and now, at the first character that is not out: a filter failed."""
        here = self._out - self._origin
        self._settle(here)
        self._undecided.clear()
        moved = replace(finding, span=Span(here, here))
        self.hits.append(Hit(moved, rule, Action.BLOCK))
        self.blocked = True
        self._text = ""
        return Release("", here, here)

    def advance(self, settled: int, *, final: bool) -> Release:
        """Release what no finding still to come can touch: none begins before `settled`."""
        if final:
            settled = self._length + 1
        limit = min(settled, self._length)
        if self._block is not None:
            limit = min(limit, self._block)
            self.blocked = settled > self._block
        release = self._release(limit)
        decided = settled if self._block is None or not self.blocked else self._block + 1
        self._settle(decided - self._origin)
        if self.blocked:
            self._text = ""
        return release

    def _release(self, limit: int) -> Release:
        """Let go of what stands before `limit`, and of whole placeholders only."""
        begin, at = self._out, self._out
        out: list[str] = []
        cuts: list[Span] = []
        for span, label in self._merged():
            if span.start >= limit:
                break
            out.append(self._text[at - begin : span.start - begin])
            at = span.start
            if span.end > limit:
                limit = at
                break
            out.append(label)
            cuts.append(Span(span.start - self._origin, span.end - self._origin))
            at = span.end
        out.append(self._text[at - begin : max(at, limit) - begin])
        self._out = max(at, limit)
        self._text = self._text[self._out - begin :]
        self._redactions = [r for r in self._redactions if r[0].start >= self._out]
        text = "".join(out)
        self._released.append(text)
        return Release(text, begin - self._origin, self._out - self._origin, tuple(cuts))

    def _merged(self) -> Iterator[tuple[Span, str]]:
        """The redactions in order, each merged with all that overlap it."""
        self._redactions.sort(key=lambda r: (r[0].start, r[1]))
        group: tuple[Span, str] | None = None
        for span, _, label in self._redactions:
            if group is None or span.start >= group[0].end:
                if group is not None:
                    yield group
                group = span, label
            elif span.end > group[0].end:
                group = Span(group[0].start, span.end), group[1]
        if group is not None:
            yield group

    def _settle(self, before: int) -> None:
        """Keep what begins before `before` for the verdict; more to come begins there or later."""
        waiting = []
        for finding, hit in self._undecided:
            if finding.span.start >= before:
                waiting.append((finding, hit))
                continue
            best = self.scores.get(finding.category, 0.0)
            self.scores[finding.category] = max(best, finding.score)
            if hit is not None:
                self.hits.append(hit)
        self._undecided = waiting
