"""A pattern as an automaton of its character positions, for judging how long matching may take.

The tree comes from the parser of the `regex` library itself, so that what is judged is what will be
matched: `re` reads another syntax (no `\\p{…}`, other flags), and takes `(?:\\w|\\d)+` as one
class, which hides that the two overlap. That parser is private: tests would tell if it moved.

Positions follow each other as in Glushkov's construction (V. M. Glushkov, 1961), with the number of
ways counted, since two ways for one step are what makes backtracking explode. Character classes are
compared on a sample: ASCII, the characters of the pattern, and some of each script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex
import regex._regex_core as _core

core: Any = _core
_IGNORECASE = int(core.IGNORECASE)  # the flags' own `&` is slow

#: A repeat that may go on for longer than this counts as unbounded: the scan holds no more.
UNBOUNDED = 4096
_MOST_POSITIONS = 4000
_SAMPLE = "aA0 _-.@/\n\t" + "".join(map(chr, range(33, 127))) + "\xa0éÉßœΩж٣中あก\u0301\u200b😀–’…"


class Unjudged(Exception):
    """The pattern has a part that this module does not know, or is too large for it."""


@dataclass(slots=True)
class Part:
    """What a part of a pattern adds.

    empty: ways to match nothing. first: positions it can begin with, with the ways and the mask of
    what may stand before. last: positions it can end with, with the ways.
    """

    empty: int = 1
    first: dict[int, tuple[int, int]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)


class Automaton:
    """Positions of a pattern: `masks[p]` the sample characters that `p` takes, as a bit mask;
    `follow[p]` the positions after it, with the number of ways; `atomic[p]` the atomic group that
    holds it, or 0; `origin[p]` the same for copies of one part. `inner`: bodies of atomic groups,
    to be judged by themselves.
    """

    def __init__(self, node: Any, sample: str, groups: dict[int, Any] | None = None) -> None:
        self.sample = sample
        self.every = (1 << len(sample)) - 1
        self.masks: list[int] = []
        self.follow: list[dict[int, int]] = []
        self.atomic: list[int] = []
        self.origin: list[int] = []
        self.inner: list[Any] = []
        self.groups = groups if groups is not None else {}
        self._inside = 0
        self._index = {ord(c): 1 << i for i, c in enumerate(sample)}
        self._word = self._mask_of(_is_word)
        self._newline = self._index[10]
        self.whole = self._part(node)

    def text(self, mask: int) -> str:
        """A character of `mask`, a plain one if it can be."""
        return self.sample[(mask & -mask).bit_length() - 1]

    def _part(self, node: Any) -> Part:
        kind = type(node).__name__
        if kind == "Sequence":
            return self._sequence([self._item(item) for item in node.items])
        if kind == "Branch":
            return self._branch([self._part(branch) for branch in node.branches])
        if kind in {"Conditional", "LookAroundConditional"}:
            return self._branch([self._part(node.yes_item), self._part(node.no_item)])
        if kind == "Group":
            self.groups[node.group] = node.subpattern
            return self._part(node.subpattern)
        if kind == "RefGroup":
            number = (
                int(node.group)
                if str(node.group).isdigit()
                else node.info.group_index.get(node.group)
            )
            if number not in self.groups:
                raise Unjudged(kind)
            return self._part(self.groups[number])
        if kind in {"GreedyRepeat", "LazyRepeat"}:
            return self._repeat(node)
        if kind in {"Atomic", "PossessiveRepeat"}:
            return self._atomic(node)
        if isinstance(node, core.ZeroWidthBase | core.LookAround):
            return Part()
        return self._position(self.mask(node), id(node))

    def _item(self, node: Any) -> tuple[Part, Callable[[int], int] | None]:
        """A part, and for a condition what it asks of the character before a given mask."""
        return self._part(node), self._guard(node) if _is_condition(node) else None

    def _sequence(self, items: list[tuple[Part, Callable[[int], int] | None]]) -> Part:
        whole = Part()
        guards: list[Callable[[int], int]] = []
        for part, guard in items:
            if guard is not None:
                guards.append(guard)
                continue
            self._join(whole.last, part.first)
            for p, (ways, before) in part.first.items() if whole.empty else ():
                for ask in guards:
                    before &= ask(self.masks[p])
                had = whole.first.get(p, (0, 0))
                whole.first[p] = _few(had[0] + ways * whole.empty), had[1] | before
            last = dict(part.last)
            for p, ways in whole.last.items() if part.empty else ():
                last[p] = _few(ways * part.empty)
            whole.last = last
            whole.empty = _few(whole.empty * part.empty)
        return whole

    def _branch(self, parts: list[Part]) -> Part:
        whole = Part(_few(sum(part.empty for part in parts)))
        for part in parts:
            whole.first |= part.first
            whole.last |= part.last
        return whole

    def _repeat(self, node: Any) -> Part:
        least, most = node.min_count, node.max_count
        if most is None or most > UNBOUNDED:
            part = self._part(node.subpattern)
            self._join(part.last, part.first)
            part.empty = _few(part.empty + 1) if least == 0 else part.empty
            if least < 2:
                return part
            return self._sequence([(self._part(node.subpattern), None), (part, None)])
        # Two copies behave as many do: what counts is whether there is a choice between them.
        part = Part()
        if most > max(least, 1):
            part = self._part(node.subpattern)
            part.empty = _few(part.empty + 1)
        copies = [self._part(node.subpattern) for _ in range(min(max(least, 1), 2, most))]
        whole = self._sequence([(copy, None) for copy in [*copies, part]])
        if least == 0:
            whole.empty = _few(whole.empty + 1)
        return whole

    def _atomic(self, node: Any) -> Part:
        body = node.subpattern
        if type(node).__name__ == "PossessiveRepeat":
            body = core.GreedyRepeat(body, node.min_count, node.max_count)
        if not self._inside:
            self.inner.append(body)
        before, self._inside = self._inside, self._inside or len(self.inner)
        part = self._part(body)
        self._inside = before
        return part

    def _position(self, mask: int, origin: int) -> Part:
        if len(self.masks) >= _MOST_POSITIONS:
            raise Unjudged("too large")
        self.masks.append(mask)
        self.follow.append({})
        self.atomic.append(self._inside)
        self.origin.append(origin)
        number = len(self.masks) - 1
        return Part(0, {number: (1, self.every)}, {number: 1})

    def _join(self, last: dict[int, int], first: dict[int, tuple[int, int]]) -> None:
        for p, out in last.items():
            for q, (into, _) in first.items():
                self.follow[p][q] = _few(self.follow[p].get(q, 0) + out * into)

    def mask(self, node: Any) -> int:
        """The sample characters that a node for one character takes."""
        kind = type(node).__name__
        if kind in {"AnyAll", "Grapheme"}:
            return self.every
        if kind in {"Any", "AnyU"}:
            return self.every & ~self._newline
        if not hasattr(node, "matches"):
            raise Unjudged(kind)
        fold = bool(int(getattr(node, "case_flags", 0)) & _IGNORECASE)
        if kind == "Character" and node.positive:
            return sum(self._index.get(ord(form), 0) for form in _forms(chr(node.value), fold))
        return self._mask_of(lambda c: any(node.matches(ord(x)) for x in _forms(c, fold)))

    def _mask_of(self, takes: Callable[[str], bool]) -> int:
        return sum(1 << i for i, c in enumerate(self.sample) if takes(c))

    def _guard(self, node: Any) -> Callable[[int], int]:
        """What may stand before a position, given the position's mask."""
        kind = type(node).__name__
        if kind in {"Boundary", "DefaultBoundary", "StartOfWord", "DefaultStartOfWord"}:
            return self._boundary if node.positive else lambda _: self.every
        if kind.startswith("StartOf"):
            return lambda _: self._newline
        if kind == "LookAround" and node.behind:
            try:
                seen = self._last_mask(node.subpattern, exact=not node.positive)
            except Unjudged:
                seen = None
            if seen is not None:
                allowed = seen if node.positive else self.every & ~seen
                return lambda _: allowed
        return lambda _: self.every

    def _boundary(self, mask: int) -> int:
        if not mask & ~self._word:
            return self.every & ~self._word
        return self.every if mask & self._word else self._word

    def _last_mask(self, node: Any, *, exact: bool) -> int | None:
        """What a look-behind ends with; `exact`: only if it is one character wide."""
        kind = type(node).__name__
        if kind == "Group":
            return self._last_mask(node.subpattern, exact=exact)
        if kind == "Sequence":
            if not node.items or (exact and len(node.items) > 1):
                return None
            return self._last_mask(node.items[-1], exact=exact)
        if kind == "Branch":
            masks = [self._last_mask(branch, exact=exact) for branch in node.branches]
            return None if None in masks else _union(masks)
        if kind.startswith("StartOf"):
            return self._newline
        return None if kind.endswith("Repeat") or _is_condition(node) else self.mask(node)


def parse(source: str, flags: int) -> Any:
    """The tree of `source` by the library's own parser. Raises Unjudged."""
    try:
        reader = core.Source(source)
        info = core.Info(flags | regex.UNICODE, reader.char_type)
        return core._parse_pattern(reader, info)  # noqa: SLF001
    except (AttributeError, TypeError, ValueError, regex.error, core._UnscopedFlagSet) as error:  # noqa: SLF001
        raise Unjudged(str(error)) from error


def sample_for(source: str) -> str:
    return "".join(dict.fromkeys(_SAMPLE + source))


def written_out(node: Any) -> int:
    """Characters of a tree with each repeat written out as often as it must be at least."""
    parts = [*(getattr(node, "items", ()) or ()), *(getattr(node, "branches", ()) or ())]
    names = ("subpattern", "yes_item", "no_item")
    parts += [part for name in names if (part := getattr(node, name, None)) is not None]
    inside = sum(map(written_out, parts)) or 1
    return inside * max(1, getattr(node, "min_count", 1))


def look_arounds(node: Any) -> Iterator[Any]:
    """All look-arounds of a tree."""
    if type(node).__name__ in {"LookAround", "LookAroundConditional"}:
        yield node
    for name in ("items", "branches"):
        for child in getattr(node, name, ()) or ():
            yield from look_arounds(child)
    for name in ("subpattern", "yes_item", "no_item"):
        if (child := getattr(node, name, None)) is not None:
            yield from look_arounds(child)


def _is_condition(node: Any) -> bool:
    return isinstance(node, core.ZeroWidthBase | core.LookAround)


def _few(ways: int) -> int:
    return min(ways, 2)


def _union(masks: list[int | None]) -> int:
    whole = 0
    for mask in masks:
        whole |= mask or 0
    return whole


@cache
def _is_word(letter: str) -> bool:
    return regex.match(r"\w", letter) is not None


@cache
def _forms(letter: str, fold: bool) -> tuple[str, ...]:
    forms = {letter, letter.lower(), letter.upper()} if fold else {letter}
    return tuple(form for form in forms if len(form) == 1)
