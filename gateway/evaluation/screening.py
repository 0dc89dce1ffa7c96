"""Labelled texts through a policy: what it said of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from filters.labelled import Row
from filters.types import Stage
from policies.examples import screened
from policies.plan import Policy
from policies.types import Action

#: Everything harmful: true where a row says `unsafe`, or any of its labels is.
OVERALL = "unsafe"


@dataclass(frozen=True, slots=True)
class Said:
    """What the policy said of a row.

    scores: the maximum per category, before thresholds. flagged: categories that rules with `flag`
    or more answered. acted: whether any such rule did. faults: filters that failed.
    """

    row: Row
    scores: Mapping[str, float]
    flagged: frozenset[str]
    acted: bool
    seconds: float
    faults: tuple[str, ...] = ()

    def score(self, category: str) -> float:
        """The score of a category; for `unsafe`, where no filter scores it, the highest of all."""
        if category == OVERALL and OVERALL not in self.scores:
            return max(self.scores.values(), default=0.0)
        return self.scores.get(category, 0.0)

    def predicted(self, category: str) -> bool:
        return self.acted if category == OVERALL else category in self.flagged


async def screen_all(
    policy: Policy,
    stage: Stage,
    rows: Sequence[Row],
    *,
    at_once: int = 8,
    done: Callable[[int], object] = lambda _count: None,
) -> list[Said]:
    """Screen all rows, `at_once` side by side; `done` is called with how many more are ready."""
    said: list[Said | None] = [None] * len(rows)
    waiting = iter(range(len(rows)))

    async def work() -> None:
        for number in waiting:
            said[number] = await _screen(policy, stage, rows[number])
            done(1)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [one for one in said if one is not None]


async def _screen(policy: Policy, stage: Stage, row: Row) -> Said:
    began = perf_counter()
    verdict = await screened(policy, stage, row.text)
    return Said(
        row=row,
        scores=verdict.scores,
        flagged=frozenset(h.finding.category for h in verdict.hits if h.action >= Action.FLAG),
        acted=verdict.action >= Action.FLAG,
        seconds=perf_counter() - began,
        faults=tuple(fault.filter for fault in verdict.faults),
    )


def truth(row: Row, category: str) -> bool | None:
    """What a row says of a category; None: nothing."""
    if category in row.labels:
        return row.labels[category] >= 0.5
    if category == OVERALL and any(value >= 0.5 for value in row.labels.values()):
        return True
    return None
