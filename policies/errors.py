"""
PolicyError
├── PolicyInvalid   the YAML does not make a policy: every problem, as `file:line:column: …`
└── ScreenClosed    a push after the last one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: French puts a blank before a colon, too: « Non : pas ça » is a key and its value.
COLON = "text in which a blank follows a colon stands in quotes"


class PolicyError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. `line` and `column` count from 1."""

    source: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}: {self.message}"


class PolicyInvalid(PolicyError):
    """The YAML does not make a policy."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ScreenClosed(PolicyError):
    """A push after the last one: a fault in the caller."""
