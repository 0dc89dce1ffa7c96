"""What the engine works on: choices, scores asked of them, and a step's share of either."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_runner.transformers import sequence
from model_runner.transformers.batch import Row, Segment
from model_runner.transformers.outlet import Outlet
from model_runner.transformers.prefix import Owner


@dataclass(eq=False, slots=True)
class Choice:
    """A sequence, with its keys and values (`row`) and its reader (`outlet`).

    Without a row nothing of it is computed, or no more: it can be again at any time.
    closed: set from any thread; frees it before the next step.
    arrived, started, wrote: by the clock, when it was made, when it began (as soon as it arrived,
    unless it had to wait), when it wrote its first token; 0: not yet. turn: since when it waits for
    others' prompts alone, and for none of its own key's.
    """

    sequence: sequence.Sequence
    outlet: Outlet
    owner: Owner
    key: str = ""
    row: Row | None = None
    queued: bool = True
    closed: bool = False
    failed: bool = False
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    wrote: float = 0.0
    turn: float = 0.0

    def __post_init__(self) -> None:
        self.turn = self.arrived

    @property
    def begun(self) -> bool:
        """Whether anything of it has been computed."""
        return bool(self.read or self.wrote)

    @property
    def over(self) -> bool:
        return self.sequence.finish_reason is not None or self.failed

    @property
    def read(self) -> int:
        """How many of its ids are computed."""
        return self.row.length if self.row else 0

    def after(self, other: Choice) -> bool:
        """Whether it came when `other` wrote already; a judge's choice, never admitted, always."""
        return bool(other.wrote) and (not self.started or other.wrote < self.started)

    @property
    def unread(self) -> int:
        return len(self.sequence.ids) - self.read


def yielding(running: Sequence[Choice], key: str) -> Choice | None:
    """Who may wait for one of `key`: the last that has not begun, of a key that has more here."""
    counts = Counter(choice.key for choice in running)
    for choice in reversed(running):
        if not choice.begun and counts[choice.key] > counts[key] + 1:
            return choice
    return None


@dataclass(eq=False, slots=True)
class Score:
    """P(label) behind a choice's text cut at `at`, plus `suffix`. labels: their token ids."""

    choice: Choice
    suffix: Sequence[int]
    labels: Mapping[str, int]
    at: int
    answer: asyncio.Future[Any] = field(repr=False)


@dataclass(slots=True, eq=False)
class Work:
    """A segment, and who waits for its logits: a choice that writes, or scores."""

    segment: Segment
    choice: Choice
    scores: list[Score] = field(default_factory=list)
