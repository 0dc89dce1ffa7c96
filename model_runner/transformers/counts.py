"""What the engine counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What the engine has done since it started."""

    steps: int = 0
    tokens_read: int = 0  # computed for prompts
    tokens_written: int = 0
    tokens_scored: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0  # not computed, since they were there
    preempted: int = 0
    faults: int = 0
    rebuilt: int = 0
