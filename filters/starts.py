"""Where in a text which patterns could begin: one pass of an automaton before any matching.

Looking at a thousand patterns at each place costs a thousand looks. So the outermost alternatives
of all patterns (branches) are one automaton of character positions (V. M. Glushkov, 1961), made
deterministic step by step as texts need it. It allows more than the patterns do: it knows nothing
of conditions but what may stand before a branch, and where a repeat ends is nothing to it. So a
branch that it drops can neither match nor be live there; those few that are left are matched in
earnest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex
import regex._regex_core as _core

from filters.pattern_tree import Unjudged, parse
from filters.patterns import FLAGS, Rule, live_pattern

core: Any = _core
_all_cases = core._regex.get_all_cases  # noqa: SLF001
_WORD = regex.compile(r"\w")

#: Characters for which a place is followed; a branch that is left then is matched in earnest.
FOLLOWED = 12
_MOST_STEPS = 200_000  # remembered; texts can hold anything


@dataclass(slots=True)
class Branch:
    """One outermost alternative of a rule. Compiled when first asked for."""

    rule: int
    source: str
    guards: list[Callable[[str, str], bool]]  # of the characters before and at its beginning
    looks_ahead: bool
    _match: regex.Pattern[str] | None = None
    _live: regex.Pattern[str] | None = None

    @property
    def match(self) -> regex.Pattern[str]:
        if self._match is None:
            self._match = regex.compile(self.source, FLAGS, cache_pattern=False)
        return self._match

    @property
    def live(self) -> regex.Pattern[str]:
        if self._live is None:
            self._live = live_pattern(self.source)
        return self._live


@dataclass(slots=True)
class _Position:
    takes: Callable[[str], bool]
    branch: int
    follow: list[int] = field(default_factory=list)
    accepts: bool = False


@dataclass(slots=True)
class _State:
    """Positions that the characters so far may have led to, of branches `owners`.

    accepts: branches that could be complete here.
    """

    positions: tuple[int, ...]
    owners: tuple[int, ...]
    accepts: tuple[int, ...]
    after: dict[str, _State | None] = field(default_factory=dict)


class Starts:
    """The branches of `rules`, and which of them a place of a text could begin."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.branches: list[Branch] = []
        self._positions: list[_Position] = []
        self._begin: list[list[int]] = []  # for each branch, its first positions
        for number, rule in enumerate(rules):
            for source in rule.branches:
                self._add(number, source)
        self._states: dict[tuple[int, ...], _State] = {}
        self._first: dict[str, _State | None] = {}
        self._steps = 0

    def look(self, text: str, at: int) -> tuple[list[int], list[int]] | None:
        """Branches that could be live and branches that could match at `text[at]`; None: no branch.

        What could be live only counts while the text grows.
        """
        key = text[at - 1 : at + 1] if at else text[0]
        try:
            state = self._first[key]
        except KeyError:
            state = self._enter(key)
        if state is None:
            return None
        live: list[int] = []
        match: list[int] = []
        end = min(len(text), at + FOLLOWED)
        place = at + 1
        while True:
            if state.accepts:
                match += [b for b in state.accepts if b not in match]
                live += [b for b in state.accepts if self.branches[b].looks_ahead and b not in live]
            if place == end:
                live += [b for b in state.owners if b not in live]
                if end < len(text):
                    match += [b for b in state.owners if b not in match]
                return live, match
            letter = text[place]
            try:
                following = state.after[letter]
            except KeyError:
                following = self._step(state, letter)
            if following is None:
                return (live, match) if match else None
            state = following
            place += 1

    def _enter(self, key: str) -> _State | None:
        before, letter = key[:-1], key[-1]
        reached = {
            p
            for number, branch in enumerate(self.branches)
            if all(guard(before, letter) for guard in branch.guards)
            for p in self._begin[number]
            if self._positions[p].takes(letter)
        }
        state = self._first[key] = self._state(reached)
        return state

    def _step(self, state: _State, letter: str) -> _State | None:
        following = {q for p in state.positions for q in self._positions[p].follow}
        reached = {q for q in following if self._positions[q].takes(letter)}
        made = state.after[letter] = self._state(reached)
        return made

    def _state(self, reached: set[int]) -> _State | None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            self._steps, self._states, self._first = 0, {}, {}
        if not reached:
            return None
        positions = tuple(sorted(reached))
        if positions not in self._states:
            of = [self._positions[p] for p in positions]
            owners = tuple(sorted({p.branch for p in of}))
            accepts = tuple(sorted({p.branch for p in of if p.accepts}))
            self._states[positions] = _State(positions, owners, accepts)
        return self._states[positions]

    def _add(self, rule: int, source: str) -> None:
        try:
            tree = parse(source, FLAGS)
        except Unjudged:
            tree = None
        branch = Branch(
            rule, source, [] if tree is None else _guards(tree), tree is None or _looks(tree)
        )
        self.branches.append(branch)
        _, first, last = self._anything() if tree is None else self._part(tree)
        self._begin.append(first)
        for p in last:
            self._positions[p].accepts = True

    def _part(self, node: Any) -> tuple[bool, list[int], list[int]]:
        """Whether a part can be empty, and the positions it can begin and end with."""
        kind = type(node).__name__
        if isinstance(node, core.ZeroWidthBase | core.LookAround):
            return True, [], []
        if kind == "Sequence":
            return self._sequence(node.items)
        if kind == "Branch":
            return self._choice(node.branches)
        if kind in {"Conditional", "LookAroundConditional"}:
            return self._choice([node.yes_item, node.no_item])
        if kind in {"Group", "Atomic"}:
            return self._part(node.subpattern)
        if kind in {"GreedyRepeat", "LazyRepeat", "PossessiveRepeat"}:
            return self._repeat(node)
        takes = _taking(node)
        if takes is None:
            return self._anything()
        here = [self._position(takes)]
        return False, here, here

    def _repeat(self, node: Any) -> tuple[bool, list[int], list[int]]:
        """As many copies as must be, up to what is followed, and one that goes round."""
        least = max(1, min(node.min_count, FOLLOWED))
        empty, first, last = True, list[int](), list[int]()
        for _ in range(least):
            part_empty, begins, ends = self._part(node.subpattern)
            self._join(last, begins)
            first = first + begins if empty else first
            last = last + ends if part_empty else ends
            empty = empty and part_empty
        if node.max_count is None or node.max_count > least:
            self._join(ends, begins)
        return empty or node.min_count == 0, first, last

    def _sequence(self, items: Iterable[Any]) -> tuple[bool, list[int], list[int]]:
        empty, first, last = True, list[int](), list[int]()
        for item in items:
            part_empty, begins, ends = self._part(item)
            self._join(last, begins)
            first = first + begins if empty else first
            last = last + ends if part_empty else ends
            empty = empty and part_empty
        return empty, first, last

    def _choice(self, parts: Iterable[Any]) -> tuple[bool, list[int], list[int]]:
        empty, first, last = False, list[int](), list[int]()
        for part in parts:
            part_empty, begins, ends = self._part(part)
            empty, first, last = empty or part_empty, first + begins, last + ends
        return empty, first, last

    def _anything(self) -> tuple[bool, list[int], list[int]]:
        """Any characters at all: for what has no model."""
        here = [self._position(lambda _: True)]
        self._join(here, here)
        return True, here, here

    def _position(self, takes: Callable[[str], bool]) -> int:
        self._positions.append(_Position(takes, len(self.branches) - 1))
        return len(self._positions) - 1

    def _join(self, last: list[int], first: list[int]) -> None:
        for p in last:
            follow = self._positions[p].follow
            follow += [q for q in first if q not in follow]


@cache
def _cases(letter: str) -> tuple[int, ...]:
    """The character and all that it equals where case does not count."""
    return tuple({ord(letter), *_all_cases(core.IGNORECASE | core.UNICODE, ord(letter))})


def _taking(node: Any) -> Callable[[str], bool] | None:
    """Whether a node for one character may take a given one; None if it is of another kind."""
    kind = type(node).__name__
    if kind == "AnyAll":
        return lambda _: True
    if kind in {"Any", "AnyU"}:
        return lambda letter: letter != "\n"
    if not hasattr(node, "matches"):
        return None
    if kind == "Character" and node.positive:
        value = node.value
        if not node.case_flags & core.IGNORECASE:
            return lambda letter: ord(letter) == value
        return lambda letter: value in _cases(letter)
    known: dict[str, bool] = {}

    def takes(letter: str) -> bool:
        if letter not in known:
            if len(known) > 1000:
                known.clear()
            known[letter] = any(node.matches(case) for case in _cases(letter))
        return known[letter]

    return takes


def _looks(node: Any) -> bool:
    """Whether the node looks ahead somewhere."""
    if type(node).__name__ == "LookAroundConditional" or (
        isinstance(node, core.LookAround) and not node.behind
    ):
        return True
    children = [*(getattr(node, "items", None) or ()), *(getattr(node, "branches", None) or ())]
    children += [getattr(node, name, None) for name in ("subpattern", "yes_item", "no_item")]
    return any(_looks(child) for child in children if child is not None)


def _guards(node: Any) -> list[Callable[[str, str], bool]]:
    """What the conditions that a branch begins with ask of the character before it, and its own."""
    kind = type(node).__name__
    if kind in {"Group", "Atomic"}:
        return _guards(node.subpattern)
    guards: list[Callable[[str, str], bool]] = []
    for item in node.items if kind == "Sequence" else [node]:
        if type(item).__name__ == "Boundary" and item.positive:
            guards.append(lambda before, letter: _is_word(before) != _is_word(letter))
        elif isinstance(item, core.LookAround) and item.behind:
            guards += _behind(item)
        elif not isinstance(item, core.ZeroWidthBase | core.LookAround):
            inside = type(item).__name__ in {"Group", "Atomic", "Sequence"}
            return guards + (_guards(item) if inside else [])
    return guards


def _behind(node: Any) -> list[Callable[[str, str], bool]]:
    inner = node.subpattern
    while type(inner).__name__ in {"Group", "Sequence"}:
        if type(inner).__name__ == "Sequence" and len(inner.items) != 1:
            break
        inner = inner.subpattern if type(inner).__name__ == "Group" else inner.items[0]
    if node.positive:
        last = inner.items[-1] if type(inner).__name__ == "Sequence" and inner.items else inner
        takes = _taking(last)
        return [] if takes is None else [lambda before, _: before != "" and takes(before)]
    if not getattr(inner, "positive", False) or not hasattr(inner, "matches"):
        return []
    return [lambda before, _: before == "" or not inner.matches(ord(before))]


def _is_word(letter: str) -> bool:
    return letter != "" and _WORD.match(letter) is not None
