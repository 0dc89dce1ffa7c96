"""Refuses patterns that can take more than linear time, with the reason and a mend.

Two lines of defence. First the pattern's automaton (`filters.pattern_tree`) is searched for what
makes a backtracking matcher slow (A. Weber, H. Seidl: On the degree of ambiguity of finite
automata, 1991; N. Weideman et al.: Analyzing matching time behavior of backtracking regular
expression matchers, 2016): a loop with two ways round on the same text is exponential; two loops
that one text can stay in or pass between are quadratic, and so is a loop that the search can begin
anew inside. Then the pattern is run on texts made to hurt it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from time import thread_time
from typing import Any

import regex

from filters.pattern_tree import (
    UNBOUNDED,
    Automaton,
    Unjudged,
    look_arounds,
    parse,
    sample_for,
    written_out,
)

#: Look-arounds may read this far: look-behinds see no more of what was let go.
WIDEST = 1024
_PROBE = 4096  # characters, as many as a start may stay live
_SHORTEST = 0.05  # seconds for them; in less than that, growth is not looked at
_GROWTH = 9.0  # for four times the text: linear is 4, quadratic 16
_PATIENCE = 2.0  # seconds on the clock, for what is exponential
_MOST_STEPS = 300_000
_LARGEST = 100_000  # characters, with repeats written out as often as they must be
_BOUND = regex.compile(r"\{\d{0,9},?(\d{1,9})\}")

NESTED = (
    "nested repeats: exponential time on {0!r}; repeat once, `(?:…)+` for `(?:(?:…)+)+`, or put"
    " between the inner repeats what neither can match"
)
OVERLAP = (
    "choices inside a repeat can match the same text: exponential time on {0!r}; make them"
    " exclusive, `\\w+` for `(?:\\w|\\d)+`"
)
ADJACENT = (
    "two unbounded repeats can share the same text: quadratic time on {0!r}; join them, or bound"
    " them: `\\s{{0,8}}`, `.{{0,200}}`"
)
LEADING = (
    "begins with an unbounded repeat: quadratic time on {0!r}; give it a left boundary and a bound:"
    " `\\b\\w{{1,64}}@` for `\\w+@`"
)
AGAIN = (
    "can begin again inside its own unbounded repeat: quadratic time on {0!r}; bound the repeat:"
    " `.{{0,200}}` for `.*`"
)
WIDTH = "a look-around without a bounded width; bound its repeats: `(?=.{0,64}x)` for `(?=.*x)`"
WIDE = f"a look-around wider than {WIDEST} characters, which is all that is kept; bound it"
SLOW = (
    "takes more than linear time on {1} characters made to hurt it ({0!r}); bound its repeats and"
    " give it a left boundary"
)
FAR = f"; a bound of more than {UNBOUNDED:,} counts as none"


def size_problem(source: str, flags: int) -> str | None:
    """Why a pattern is too large to be compiled; None, too, for one that does not parse."""
    try:
        large = written_out(parse(source, flags)) > _LARGEST
    except Unjudged:
        return None
    except RecursionError:
        return "too deep a pattern"
    return f"too large a pattern, of more than {_LARGEST:,} characters" if large else None


@lru_cache(maxsize=4096)
def problem(source: str, flags: int) -> str | None:
    """What is wrong with a pattern that compiles, or None."""
    wrong = _problem(source, flags)
    far = wrong and any(int(bound) > UNBOUNDED for bound in _BOUND.findall(source))
    return f"{wrong}{FAR}" if far else wrong


def _problem(source: str, flags: int) -> str | None:
    automaton = None
    try:
        tree = parse(source, flags)
        if wrong := _look_around_problem(tree):
            return wrong
        automaton = Automaton(tree, sample_for(source))
        if wrong := _Judge(automaton).problem(search=True):
            return wrong
        inner, groups = list(automaton.inner), automaton.groups
        while inner:
            body = Automaton(inner.pop(), automaton.sample, groups)
            inner += body.inner
            if wrong := _Judge(body).problem(search=False):
                return wrong
    except (Unjudged, RecursionError):
        pass  # the probes below are all that we have then
    return _probe(source, flags, automaton)


def _look_around_problem(tree: Any) -> str | None:
    for node in look_arounds(tree):
        width = node.subpattern.max_width()
        if width > WIDEST:
            return WIDTH if width >= 1 << 20 else WIDE
    return None


class _Judge:
    def __init__(self, automaton: Automaton) -> None:
        self.of = automaton
        self.loops = _loops(automaton.follow)
        self.loop_of = {p: number for number, loop in enumerate(self.loops) for p in loop}
        self.steps = 0

    def problem(self, *, search: bool) -> str | None:
        if not self.loops:
            return None
        for loop in self.loops:
            if wrong := self._two_ways(loop):
                return wrong
        for p in self.loop_of:
            for q in self.loop_of:
                if self.loop_of[p] != self.loop_of[q] and not self.of.atomic[p]:
                    text = self._passes(p, q)
                    if text is not None:
                        return ADJACENT.format(text)
        for q in self.loop_of if search else ():
            if wrong := self._again(q):
                return wrong
        return None

    def _two_ways(self, loop: set[int]) -> str | None:
        """Whether one text has two ways round a loop."""
        of = self.of
        for p in loop:
            for q, ways in of.follow[p].items():
                if ways > 1 and q in loop and not self._apart(p, q, q):
                    return NESTED.format(self._round(q))
        forward = self._pairs(loop)
        backward: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for pair, after in forward.items():
            for other in after:
                backward.setdefault(other, []).append(pair)
        out = _reach([(p, p) for p in loop], lambda pair: forward.get(pair, ()))
        back = _reach([(p, p) for p in loop], lambda pair: backward.get(pair, ()))
        for p, q in out & back:
            if p != q:
                copies = of.origin[p] == of.origin[q]
                return (NESTED if copies else OVERLAP).format(self._round(p))
        return None

    def _apart(self, *positions: int) -> bool:
        """Whether all lie in one atomic group, whose choices are never taken back from outside."""
        groups = {self.of.atomic[p] for p in positions}
        return len(groups) == 1 and 0 not in groups

    def _pairs(self, loop: set[int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Steps of two walkers in one loop who read the same text; pairs are unordered."""
        of, steps = self.of, {}
        todo, seen = [(p, p) for p in loop], {(p, p) for p in loop}
        while todo:
            pair = p, q = todo.pop()
            after = []
            for x in of.follow[p].keys() & loop:
                for y in of.follow[q].keys() & loop:
                    self._count()
                    if of.masks[x] & of.masks[y] and not (x != y and self._apart(p, q, x, y)):
                        after.append((min(x, y), max(x, y)))
            steps[pair] = after
            new = set(after) - seen
            seen |= new
            todo += new
        return steps

    def _passes(self, p: int, q: int) -> str | None:
        """A text that stays in `p`, passes from `p` to `q`, and stays in `q`."""
        of = self.of

        def after(state: tuple[int, int, int]) -> Iterator[tuple[tuple[int, int, int], int]]:
            a, b, c = state
            for x in of.follow[a].keys() & self.loops[self.loop_of[p]]:
                for z in of.follow[c].keys() & self.loops[self.loop_of[q]]:
                    if of.masks[x] & of.masks[z]:
                        for y in of.follow[b]:
                            if mask := of.masks[x] & of.masks[y] & of.masks[z]:
                                yield (x, y, z), mask

        return self._word((p, p, q), (p, q, q), after)

    def _again(self, q: int) -> str | None:
        """Whether a search can begin anew, again and again, in text that stays in `q`.

        The search itself is a loop that takes any character: -1. Before it enters position `f` it
        stands at -2 - f, on a character that may stand before `f`.
        """
        of = self.of
        loop = self.loops[self.loop_of[q]]
        first = of.whole.first
        leading = bool(loop & first.keys())

        def moves(at: int) -> Iterator[tuple[int, int]]:
            if at == -1:
                yield -1, of.every
                for f, (_, before) in first.items():
                    yield -2 - f, before
            elif at < -1:
                yield -2 - at, of.masks[-2 - at]
            else:
                for x in of.follow[at]:
                    yield x, of.masks[x]

        def after(state: tuple[int, int]) -> Iterator[tuple[tuple[int, int], int]]:
            for y in of.follow[state[1]].keys() & loop:
                for x, mask in moves(state[0]):
                    if both := mask & of.masks[y]:
                        yield (x, y), both

        text = self._word((-1, q), (q, q), after)
        return None if text is None else (LEADING if leading else AGAIN).format(text)

    def _word(self, start: Any, goal: Any, after: Any) -> str | None:
        """The shortest text on a path from `start` to `goal`, said four times."""
        came: dict[Any, tuple[Any, str]] = {}
        todo = deque([start])
        while todo:
            state = todo.popleft()
            for other, mask in after(state):
                self._count()
                if other in came:
                    continue
                came[other] = state, self.of.text(mask)
                if other == goal:
                    return _told(came, start, goal)
                todo.append(other)
        return None

    def _round(self, p: int) -> str:
        loop = self.loops[self.loop_of[p]]

        def after(at: int) -> Iterator[tuple[int, int]]:
            for x in self.of.follow[at].keys() & loop:
                yield x, self.of.masks[x]

        return self._word(p, p, after) or ""

    def _count(self) -> None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise Unjudged("too large")


def _told(came: dict[Any, tuple[Any, str]], start: Any, goal: Any) -> str:
    text, state = "", goal
    while True:
        state, letter = came[state]
        text = letter + text
        if state == start:
            return text * max(2, -(-6 // len(text))) + "…"


def _loops(follow: list[dict[int, int]]) -> list[set[int]]:
    """The strongly connected components that hold a cycle (R. E. Tarjan, 1972), iteratively."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    found: list[set[int]] = []
    for root in range(len(follow)):
        if root in order:
            continue
        work = [(root, iter(follow[root]))]
        order[root] = low[root] = len(order)
        stack.append(root)
        while work:
            at, rest = work[-1]
            for x in rest:
                if x not in order:
                    order[x] = low[x] = len(order)
                    stack.append(x)
                    work.append((x, iter(follow[x])))
                    break
                if x in low:
                    low[at] = min(low[at], low[x])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[at])
                if low[at] == order[at]:
                    cut = stack.index(at)
                    loop = set(stack[cut:])
                    del stack[cut:]
                    if len(loop) > 1 or at in follow[at]:
                        found.append(loop)
                    for p in loop:
                        low[p] = len(follow)  # done: nobody's root any more
    return found


def _reach(starts: list[tuple[int, int]], after: Any) -> set[tuple[int, int]]:
    seen, todo = set(starts), list(starts)
    while todo:
        for other in after(todo.pop()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def _probe(source: str, flags: int, automaton: Automaton | None) -> str | None:
    """Run the pattern, never let match, on texts made to hurt it.

    Time is this thread's own, and what counts is how it grows: a busy machine refuses nothing.
    """
    hard = regex.compile(f"(?:{source})(?s:.)(?!)", flags)
    for pump in _pumps(source, automaton):
        text = (pump * (_PROBE // len(pump)))[: _PROBE - 1] + "\0"
        try:
            long = _seconds(hard, text)
            grows = long > _SHORTEST and long > _GROWTH * _seconds(hard, text[-_PROBE // 4 :])
        except TimeoutError:
            grows = True
        if grows:
            return SLOW.format(pump * 3 + "…", _PROBE)
    return None


def _seconds(hard: regex.Pattern[str], text: str) -> float:
    """The less of two runs: noise only adds. Raises TimeoutError."""
    runs = []
    for _ in range(2):
        began = thread_time()
        hard.search(text, timeout=_PATIENCE, partial=True)
        hard.search(text[:-1], timeout=_PATIENCE)
        runs.append(thread_time() - began)
        if runs[0] < _SHORTEST:
            break
    return min(runs)


def _pumps(source: str, automaton: Automaton | None) -> list[str]:
    """Texts to repeat: characters of each class, neighbours, and the pattern's own letters."""
    pumps = ["a", "1", " ", "a.", "a ", "1 "]
    if automaton is not None:
        letters = [automaton.text(mask) for mask in dict.fromkeys(automaton.masks) if mask]
    else:
        letters = list(dict.fromkeys(c for c in source if c.isalnum()))
    pumps += letters[:8] + ["".join(pair) for pair in pairwise(letters[:6])]
    if len(letters) > 1:
        pumps.append("".join(letters[:64]))
    return list(dict.fromkeys(pumps))
