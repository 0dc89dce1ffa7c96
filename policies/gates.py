"""A cheap filter that gates a dear one: `only: {NAME: CATEGORY, from: 0.3, to: 0.8}`.

The dear filter is asked about windows of text that overlap a finding of the gate with a score in
between, and about no others; what it finds counts from where the first such finding begins. All
else is settled once the gate has settled it. None of this looks at how the text arrived.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filters.errors import FilterConfigError
from filters.types import OVERFLOW, Filter, Finding, Span
from policies.document import Document
from policies.errors import Problem

_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Gate:
    """Which findings of the filter `name` open it. `categories`: None for any."""

    name: str
    categories: frozenset[str] | None = None
    low: float = 0.5
    high: float = 1.0

    def opens(self, finding: Finding) -> bool:
        """Whether `finding` does. What the gate could not read to its end does, too."""
        if finding.category == OVERFLOW:
            return True
        known = self.categories is None or finding.category in self.categories
        return known and self.low <= finding.score <= self.high


class Spots:
    """Where a gate was open in one text."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._spots: list[Span] = []
        self._first = _END  # where the first of them begins
        self._dear = 0  # how far they were looked through

    def hear(self, findings: Sequence[Finding]) -> None:
        """Take findings of the gate."""
        for finding in findings:
            if self._gate.opens(finding):
                self._add(finding.span)

    def open_from(self, offset: int) -> None:
        """The gate failed: all text from there on is asked about."""
        self._add(Span(offset, _END))

    def _add(self, span: Span) -> None:
        self._spots.append(span)
        self._first = min(self._first, span.start)

    def asked(self, span: Span) -> bool:
        """Whether a window is asked about. All that the gate says of it has been heard."""
        return any(_overlap(spot, span) for spot in self._spots)

    def cut(self, finding: Finding) -> Span | None:
        """What counts of a finding of the dear filter, if anything."""
        starts = [spot.start for spot in self._spots if _overlap(spot, finding.span)]
        if not starts:
            return None
        return Span(max(finding.span.start, min(starts)), finding.span.end)

    def settled(self, heard: int, dear: int) -> int:
        """How far text is settled that the gate has settled to `heard`, the dear filter to `dear`.

        What the dear filter finds next begins at `dear` or later, and counts from a spot on.
        """
        if dear > self._dear:
            self._dear = dear
            self._spots = [spot for spot in self._spots if max(spot.end, spot.start + 1) > dear]
            self._first = min((spot.start for spot in self._spots), default=_END)
        return min(heard, max(dear, self._first))


def read_gates(
    filters: Mapping[str, Mapping[str, Any]], document: Document, made: Mapping[str, Filter]
) -> tuple[dict[str, Gate], list[Problem]]:
    """The gates that entries of `filters:` name, and what is wrong with them."""
    gates: dict[str, Gate] = {}
    problems = []
    for name, options in filters.items():
        if "only" not in options:
            continue
        try:
            gates[name] = _gate(name, options["only"], filters, made)
        except FilterConfigError as error:
            path = ("filters", name, "only", *error.path)
            problems.append(document.problem(path, str(error)))
    problems += [
        document.problem(("filters", name, "only"), f"filters gate each other: {cycle}")
        for name in gates
        if (cycle := _cycle(name, gates)) is not None
    ]
    return gates, problems


def _gate(
    gated: str, asked: object, filters: Mapping[str, Mapping[str, Any]], made: Mapping[str, Filter]
) -> Gate:
    if not isinstance(asked, Mapping):
        raise FilterConfigError("expected {filter: category, from: 0.3, to: 0.8}")
    names = [key for key in asked if key not in {"from", "to"}]
    if len(names) != 1:
        raise FilterConfigError(f"one filter gates; found {', '.join(names) or 'none'}")
    (name,) = names
    if name not in filters:
        others = ", ".join(other for other in filters if other != gated)
        close = f"; one of {others}" if others else ", and no other that could gate this one"
        raise FilterConfigError(f"no filter {name!r}{close}", (name,))
    found = asked[name]
    categories = found if isinstance(found, list) else [found]
    if not categories or not all(isinstance(c, str) and c for c in categories):
        raise FilterConfigError(f"`{name}: …` takes a category, a list of them, or `any`", (name,))
    known = getattr(made.get(name), "categories", None)
    for category in categories:
        if known is not None and category not in known and category != "any":
            raise FilterConfigError(
                f"{name} has no category {category!r}; one of {', '.join(sorted(known))}", (name,)
            )
    low, high = _score(asked, "from", 0.5), _score(asked, "to", 1.0)
    if low > high:
        raise FilterConfigError("`from` is over `to`", ("from",))
    return Gate(name, None if "any" in categories else frozenset(categories), low, high)


def _score(asked: Mapping[str, Any], key: str, default: float) -> float:
    value = asked.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FilterConfigError(f"`{key}` is a score from 0 to 1", (key,))
    if not 0 <= value <= 1:
        raise FilterConfigError(f"`{key}` is a score from 0 to 1", (key,))
    return float(value)


def _cycle(name: str, gates: Mapping[str, Gate]) -> str | None:
    """`a, b, a`, if the gates of `name` lead back to it."""
    seen = [name]
    while (gate := gates.get(seen[-1])) is not None:
        seen.append(gate.name)
        if gate.name == name:
            return ", ".join(seen)
        if gate.name in seen[:-1]:
            return None  # a round that others are in
    return None


def _overlap(spot: Span, span: Span) -> bool:
    """Whether they share text; an empty spot is in the window that it begins in."""
    return spot.start < span.end and max(spot.end, spot.start + 1) > span.start
