"""What a policy says of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from filters.types import Finding, Span


class Action(IntEnum):
    """What is done about a finding; the strongest of a text's is the verdict's."""

    ALLOW = 0
    FLAG = 1
    REDACT = 2
    REVISE = 3
    BLOCK = 4

    @property
    def word(self) -> str:
        return self.name.lower()


OnError = Literal["block", "allow"]
#: Where the note of a revision stands: behind the last user message, or in the answer itself.
Place = Literal["instruction", "assistant"]
Then = Literal["continue", "rewind", "stop"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A finding that a rule answered. `rule`: the rule's id, or `on_error`."""

    finding: Finding
    rule: str
    action: Action


@dataclass(frozen=True, slots=True)
class Fault:
    """A filter that failed, timed out or answered nonsense, and what was done about it."""

    filter: str
    reason: str
    on_error: OnError

    @property
    def blocks(self) -> bool:
        return self.on_error == "block"


@dataclass(frozen=True, slots=True)
class Release:
    """Text that may leave: it stands for the original text `[start, end)`.

    cuts: spans of the original, inside `[start, end)`, that a placeholder stands for. All else of
    `[start, end)` is in `text` letter by letter.
    placeholders: what stands in `text` for each of `cuts`.
    """

    text: str
    start: int
    end: int
    cuts: tuple[Span, ...] = ()
    placeholders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Steer:
    """How a rule that revises has an answer written on.

    note: what the model is told, by language; empty for nothing.
    tries: how often at most. then: what the rule does from there on.
    """

    note: Mapping[str, str] = field(default_factory=dict)
    place: Place = "instruction"
    tries: int = 2
    then: Action = Action.BLOCK


@dataclass(frozen=True, slots=True)
class Revision:
    """An answer is to be written anew from `to` on, where what was released ends.

    kept: what is out, as the model wrote it: `to` characters.
    bad: what stood behind it, each time; nothing of it was released.
    """

    to: int
    rule: str
    steer: Steer
    kept: str = ""
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a push: send the release, then go on, rewind or stop.

    revision: where `then` is to rewind, how.
    signals: what rules that signal found since the last push, in text that left before.
    checked: how far such rules have vouched for the text; never goes back.
    """

    release: Release
    then: Then = "continue"
    signals: tuple[Hit, ...] = ()
    checked: int = 0
    revision: Revision | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a whole text.

    text: as released. Of a blocked text, what stands before the first block.
    hits: in order of their start; those that begin at or before the first block.
    scores: the maximum per category, before thresholds, by the filters' own names.
    rule: id of the rule that decided `action`; None where nothing hit.
    timings: seconds spent in each filter.
    rewinds: how often it was written anew. gave_up: a rule answered that had no more tries.
    """

    action: Action
    text: str
    hits: tuple[Hit, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    rule: str | None = None
    policy_version: str = ""
    faults: tuple[Fault, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    rewinds: int = 0
    gave_up: bool = False

    @property
    def failed(self) -> bool:
        """Whether a filter failed that must not: then nothing is said of the text."""
        return any(fault.blocks for fault in self.faults)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(hit.finding for hit in self.hits)


def highest(*scores: Mapping[str, float]) -> dict[str, float]:
    """Of each category the highest score."""
    found: dict[str, float] = {}
    for table in scores:
        for category, score in table.items():
            found[category] = max(score, found.get(category, 0.0))
    return found
