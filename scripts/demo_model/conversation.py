"""What every generator yields: a short conversation and the name of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Turn:
    """One user text and the answer to it. The loss falls on the answer alone."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, or (`kind="novel"`) a plain text in the answer of its only turn."""

    kind: str
    turns: tuple[Turn, ...]
    system: str = ""


Language = Literal["en", "fr"]
