"""What the steps of a view work on, and the two kinds that most of them are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import regex


@dataclass(slots=True)
class Chars:
    """Characters with the spans of the original that they stand for. Starts never go back."""

    text: str = ""
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, text: str, start: int, end: int) -> None:
        """Add characters that all stand for `[start, end)`."""
        self.text += text
        self.starts += [start] * len(text)
        self.ends += [end] * len(text)

    def take(self, size: int) -> Chars:
        """Remove and return the first `size` characters."""
        taken = Chars(self.text[:size], self.starts[:size], self.ends[:size])
        self.text, self.starts, self.ends = self.text[size:], self.starts[size:], self.ends[size:]
        return taken

    def part(self, start: int, end: int) -> Chars:
        """A copy of the characters `[start, end)`."""
        return Chars(self.text[start:end], self.starts[start:end], self.ends[start:end])

    def extend(self, other: Chars) -> None:
        self.text += other.text
        self.starts += other.starts
        self.ends += other.ends


class Step(Protocol):
    """One step of a view, for one text."""

    def feed(self, chars: Chars, *, final: bool) -> Chars:
        """Take more characters; return those that are decided now."""
        ...

    @property
    def held(self) -> int | None:
        """Where in the original the first character that is held begins; None if none is."""
        ...


Row = tuple[Callable[[], Step], ...]


class Each:
    """A step that turns each character into others, whatever stands beside it."""

    held = None

    def __init__(self, turn: Callable[[str], str]) -> None:
        self._turn = turn

    def feed(self, chars: Chars, *, final: bool) -> Chars:  # noqa: ARG002
        out = Chars()
        pieces = []
        for character, start, end in zip(chars.text, chars.starts, chars.ends, strict=True):
            turned = self._turn(character)
            pieces.append(turned)
            out.starts += [start] * len(turned)
            out.ends += [end] * len(turned)
        out.text = "".join(pieces)
        return out


class Rewrite:
    """A step that rewrites what a pattern matches, once no match there can change any more.

    write: the characters that stand for a match.
    """

    def __init__(
        self,
        found: regex.Pattern[str],
        alive: regex.Pattern[str],
        write: Callable[[Chars], Chars],
    ) -> None:
        self._found = found
        self._alive = alive
        self._write = write
        self._chars = Chars()
        self._behind = ""  # the last character let go of, for look-behinds

    @property
    def held(self) -> int | None:
        return self._chars.starts[0] if self._chars.starts else None

    def feed(self, chars: Chars, *, final: bool) -> Chars:
        self._chars.extend(chars)
        text = self._behind + self._chars.text
        begin = len(self._behind)
        live = len(text)
        if not final:
            first = self._alive.search(text, begin, partial=True, timeout=0.25)
            live = first.start() if first is not None else live
        out, at = Chars(), begin
        while at < live:
            match = self._found.search(text, at, timeout=0.25)
            if match is None or match.start() >= live:
                break
            out.extend(self._chars.take(match.start() - at))
            out.extend(self._write(self._chars.take(len(match[0]))))
            at = match.end()
        if at < live:
            out.extend(self._chars.take(live - at))
            at = live
        if at > begin:
            self._behind = text[at - 1]
        return out


@cache
def _compiled(pattern: str) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    """The pattern, and the one that finds its earliest live start (see filters.patterns)."""
    flags = regex.VERSION0
    return regex.compile(pattern, flags), regex.compile(rf"(?:{pattern})(?s:.)(?!)", flags)


def rewriting(pattern: str, write: Callable[[Chars], Chars]) -> Callable[[], Step]:
    """Makes steps that rewrite what `pattern` matches."""

    def make() -> Step:
        found, alive = _compiled(pattern)
        return Rewrite(found, alive, write)

    return make
