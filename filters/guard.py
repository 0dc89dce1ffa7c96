"""The `guard` filter: a model made for judging, asked about the text so far, window by window."""

from __future__ import annotations

from collections.abc import Sequence

from filters.errors import FilterConfigError
from filters.registry import Resources
from filters.types import Context, Finding, Guard, Piece, Progress, Scope, Turn
from filters.windows import Windows


class GuardFilter:
    """Asks a `Guard`, at each window's end, about the text up to there, behind the conversation.

    limit: characters a window has at most. most: characters of the text that the guard is shown at
    most, its last.
    """

    scope: Scope = "conversation"
    immediate = False

    def __init__(self, name: str, guard: Guard, *, limit: int = 400, most: int = 8000) -> None:
        self.name = name
        self.guard = guard
        self.limit = limit
        self.most = most

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> GuardFilter:
        """Build from YAML: the name of a guard that the settings define."""
        if not isinstance(options, str):
            raise FilterConfigError("expected the name of a guard from the settings")
        guard = resources.guards.get(options)
        if guard is None:
            known = ", ".join(sorted(resources.guards)) or "none is defined"
            raise FilterConfigError(f"no guard {options!r} in the settings: {known}")
        return cls(name, guard)

    @property
    def categories(self) -> frozenset[str]:
        return self.guard.categories

    @property
    def needs_engine(self) -> bool:
        """Whether the guard is to be asked of an engine that is not there."""
        return getattr(self.guard, "absent", False)

    def open(self, context: Context) -> GuardScan:
        return GuardScan(self, context)


class GuardScan:
    def __init__(self, owner: GuardFilter, context: Context) -> None:
        self._owner = owner
        self._context = context
        answer = context.stage in {"output", "tool_arguments"}
        self._role = "assistant" if answer else "user"
        self._turns = _before(context)
        self._windows = Windows(owner.limit)
        self._text = ""

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        owner, findings = self._owner, []
        for span, text in self._windows.feed(piece.text, final=final):
            self._text = (self._text + text)[-owner.most :]
            if not (text.strip() and self._context.asks(span)):
                continue
            scores = await owner.guard.judge([*self._turns, Turn(self._role, self._text)])
            findings += [Finding(owner.name, c, span, float(s)) for c, s in scores.items()]
        return Progress(self._windows.start, findings)

    async def aclose(self) -> None:
        return None


def _before(context: Context) -> Sequence[Turn]:
    """The turns before the text. One that the text continues is fed ahead of it, and left out."""
    turns = list(context.conversation)
    if context.preceding and turns and turns[-1].role == "assistant":
        turns.pop()
    return turns
