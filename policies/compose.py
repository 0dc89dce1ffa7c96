"""Turns findings and how far they are settled into released text. Pure: no clock, no I/O.

The rules of composition, none of which looks at how the text arrived:

- overlapping redactions merge: earliest start, last end, the label and the operator of the
  earliest start, then of the rule that stands first in the policy; the placeholder leaves when all
  is settled up to the merged end, and shows no more than the least that any of their operators may;
- a block that starts at `b` is decided when all is settled past `b`; the first one counts, what
  stands before it was released, and the verdict keeps what begins at or before it;
- a revise is decided as a block is, and the first start of either counts. Where both start there,
  the block counts; of several that revise, the rule that stands first in the policy. What was found
  behind is forgotten: that text is written anew. What is released ends at `b`, or where a redaction
  that reaches `b` starts;
- a finding that begins in text already out counts where it reaches new text, from there on; what it
  merges with, and so what its placeholder may show, is as if nothing were out. One that grew longer
  than its filter follows, all of it in text already out, goes on: where that is a block, it blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from filters.types import OVERFLOW, Finding, Span
from policies.operators import Operator
from policies.rules import Rules
from policies.types import Action, Hit, Release

#: Characters of bad text that are told to the engine.
LONGEST_BAD = 64


@dataclass(frozen=True, slots=True)
class _Redaction:
    """Answered findings that overlap, or one. `span` is absolute and may begin in text already out.

    number: of the rule, in the policy. keep: characters that the placeholder may show.
    """

    span: Span
    number: int
    category: str
    operator: Operator
    keep: int

    def merged(self, other: _Redaction) -> _Redaction:
        span = Span(self.span.start, max(self.span.end, other.span.end))
        return replace(self, span=span, keep=min(self.keep, other.keep))


class Composer:
    """Composes one text. Offsets are absolute: they count `preceding`, which is out already."""

    def __init__(self, rules: Rules, preceding: str = "") -> None:
        self._rules = rules
        self._preceding = preceding
        self._origin = origin = len(preceding)
        self._text = ""  # what is held, from offset `_out` on
        self._out = origin
        self._length = origin
        self._released: list[str] = []
        self._redactions: list[_Redaction] = []
        self._undecided: list[tuple[Finding, Hit | None]] = []
        self._block: int | None = None  # the first start of a block or a revise
        self._wanting: list[tuple[int, int, int, int]] = []  # start, -action, rule's number, end
        self.hits: list[Hit] = []
        self.scores: dict[str, float] = {}
        self.blocked = False
        self.revision: tuple[int, str] | None = None  # the rule's number, and the bad text

    @property
    def held(self) -> int:
        """Characters that have come and not left."""
        return len(self._text)

    @property
    def text(self) -> str:
        """All that was released."""
        return "".join(self._released)

    @property
    def ended(self) -> bool:
        """Whether a block or a revise is decided: nothing more of this text is released."""
        return self.blocked or self.revision is not None

    @property
    def released_to(self) -> int:
        """Where what was released ends, counted as releases are."""
        return self._out - self._origin

    def grow(self, text: str) -> None:
        self._text += text
        self._length += len(text)

    def add(self, finding: Finding) -> None:
        """Take a finding; its span is absolute and starts at or after what is out."""
        start = max(finding.span.start, self._origin)
        found = self._text[start - self._out : max(0, finding.span.end - self._out)]
        if finding.span.start < self._origin:  # an exception is one for the whole of it
            found = self._preceding[finding.span.start : finding.span.end] + found
        answer = self._rules.hit(finding, found)
        if answer is not None and answer[1].action is Action.REDACT and len(finding.span):
            number, operator = answer[0], self._rules.operator(answer[0])
            self._redactions.append(
                _Redaction(finding.span, number, finding.category, operator, operator.keep)
            )
        if finding.span.end <= self._origin and self._origin:
            if answer is None or answer[1].action < Action.BLOCK or finding.category != OVERFLOW:
                return  # wholly in text that was out before
            # What is found goes on, further than its filter follows: in one piece it is blocked.
            finding, start = replace(finding, span=Span(self._origin, self._origin)), self._origin
        moved = replace(finding, span=Span(start - self._origin, finding.span.end - self._origin))
        hit = replace(answer[1], finding=moved) if answer else None
        self._undecided.append((moved, hit))
        if answer is None or hit is None:
            return
        if hit.action >= Action.REVISE:
            self._wanting.append((start, -hit.action, answer[0], finding.span.end))
            self._block = start if self._block is None else min(self._block, start)

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
        decided = settled
        if self._block is not None:
            limit = min(limit, self._block)
            if settled > self._block:
                decided = self._block + 1
        release = self._release(limit, settled)
        self._settle(decided - self._origin)
        if self._block is not None and settled > self._block:
            _, action, number, end = min(self._wanting)
            self.blocked = -action == Action.BLOCK
            if not self.blocked:
                self.revision = number, self._text[: min(end - self._out, LONGEST_BAD)]
            self._text = ""
        return release

    def _release(self, limit: int, settled: int) -> Release:
        """Let go of what stands before `limit`, and of whole placeholders only."""
        begin, at = self._out, self._out
        if not self._redactions:  # as nearly always
            self._out = max(at, limit)
            text, self._text = self._text[: self._out - at], self._text[self._out - at :]
            self._released.append(text)
            return Release(text, at - self._origin, self._out - self._origin)
        out: list[str] = []
        cuts: list[Span] = []
        placeholders: list[str] = []
        groups = _merged(self._redactions)
        for group, _ in groups:
            start, end = max(group.span.start, self._origin), group.span.end
            if end <= at:
                continue  # wholly in text that was out before
            if start >= limit:
                break
            out.append(self._text[at - begin : start - begin])
            at = start
            if end > limit:
                limit = at
                break
            original = self._text[at - begin : end - begin]
            placeholders.append(group.operator.replace(original, group.category, group.keep))
            out.append(placeholders[-1])
            cuts.append(Span(start - self._origin, end - self._origin))
            at = end
        out.append(self._text[at - begin : max(at, limit) - begin])
        self._out = max(at, limit)
        self._text = self._text[self._out - begin :]
        # Of text that was out before, what later findings may still merge with is kept.
        waits = min(settled, self._out)
        self._redactions = [r for group, parts in groups if group.span.end > waits for r in parts]
        text = "".join(out)
        self._released.append(text)
        first, last = begin - self._origin, self._out - self._origin
        return Release(text, first, last, tuple(cuts), tuple(placeholders))

    def _settle(self, before: int) -> None:
        """Keep what begins before `before` for the verdict; more to come begins there or later."""
        if not self._undecided:
            return
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


def _merged(redactions: Sequence[_Redaction]) -> list[tuple[_Redaction, list[_Redaction]]]:
    """The redactions in order, each merged with all that overlap it, with what was merged."""
    groups: list[tuple[_Redaction, list[_Redaction]]] = []
    for one in sorted(redactions, key=lambda r: (r.span.start, r.number)):
        if groups and one.span.start < groups[-1][0].span.end:
            group, parts = groups[-1]
            groups[-1] = group.merged(one), [*parts, one]
        else:
            groups.append((one, [one]))
    return groups
