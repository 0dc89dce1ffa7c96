"""Normalised views: what a disguised text says, with a map back to the characters that say it.

A view is a row of steps, each a function of the text alone that works as the text grows. A step
takes characters, each with the span of the original that it stands for, and gives others; it holds
what it cannot decide yet. So a filter that reads a view is streamed exactly as one that reads the
text itself, and what it finds is cut from the original to the letter. What can be read in several
ways (base64, which may begin at any letter) is several rows under one name, behind a shared one.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Protocol

import regex
from confusable_homoglyphs import confusables  # type: ignore[import-untyped]


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


class Steps:
    """A row of steps as one."""

    def __init__(self, row: Row) -> None:
        self._steps = [make() for make in row]
        self.held: int | None = None

    def feed(self, chars: Chars, *, final: bool) -> Chars:
        for step in self._steps:
            if not chars.text and not final:
                break
            chars = step.feed(chars, final=final)
        held = (step.held for step in self._steps)
        self.held = min((h for h in held if h is not None), default=None)
        return chars


class View:
    """One text seen through the steps of a view, in each of its ways."""

    def __init__(self, shared: Row, ways: Sequence[Row]) -> None:
        self._shared = Steps(shared)
        self.ways = [Steps(way) for way in ways]
        self._length = 0

    def feed(self, text: str, *, final: bool) -> Chars:
        """What the ways are to be fed now, if it is anything, or final."""
        begin, self._length = self._length, self._length + len(text)
        places = list(range(begin, self._length + 1))
        return self._shared.feed(Chars(text, places[:-1], places[1:]), final=final)

    def frontier(self, way: Steps) -> int:
        """Offset in the original: no character that this way will yet show begins before it."""
        # What a way holds came before what the shared steps hold.
        held = self._shared.held if way.held is None else way.held
        return self._length if held is None else held


# ---- steps ---------------------------------------------------------------------------------------


@cache
def _confusables() -> Mapping[str, str]:
    """Characters that look like an ASCII letter, by Unicode's table (UTS #39), -> that letter."""
    table: Mapping[str, list[Mapping[str, str]]] = confusables.confusables_data
    found: dict[str, str] = {}
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for entry in table.get(letter, []):
            if len(entry["c"]) == 1 and not entry["c"].isascii():
                found.setdefault(entry["c"], letter)
    return found


@lru_cache(maxsize=65536)
def fold_character(character: str) -> str:
    """Compatibility forms, look-alikes, marks and case undone; what cannot be seen is dropped."""
    if character.isascii():
        return character.lower()
    look_alikes = _confusables()
    out = []
    for part in unicodedata.normalize("NFKD", look_alikes.get(character, character)):
        if unicodedata.category(part) in {"Mn", "Me", "Cf"}:
            continue
        out.append(look_alikes.get(part, part).casefold())
    folded = unicodedata.normalize("NFKD", "".join(out))
    return "".join(c for c in folded if unicodedata.category(c) != "Mn")


def fold(text: str) -> str:
    """`text` as the view `fold` shows it; for the terms that a filter looks for there."""
    return "".join(map(fold_character, text))


_LEET = {"4": "a", "@": "a", "8": "b", "(": "c", "3": "e", "€": "e", "6": "g", "9": "g", "1": "i"}
_LEET |= {"!": "i", "0": "o", "5": "s", "$": "s", "7": "t", "2": "z"}
_LEET_L = _LEET | {"1": "l", "!": "l"}

_SEPARATORS = r"[ \u00a0.\-_*/|~·•,+:;'’]"
# One separator throughout: "b a d, b.a.d" are two words.
_SPELLED = rf"(?<!\p{{L}})\p{{L}}(?P<s>{_SEPARATORS})\p{{L}}(?:(?P=s)\p{{L}}){{1,40}}(?!\p{{L}})"
_REPEATED = r"(?P<c>\p{L})(?P=c){2,200}"


@cache
def _compiled(pattern: str) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    """The pattern, and the one that finds its earliest live start (see filters.patterns)."""
    flags = regex.VERSION0
    return regex.compile(pattern, flags), regex.compile(rf"(?:{pattern})(?s:.)(?!)", flags)


def _letters(chars: Chars) -> Chars:
    """Only the letters; a match of them is cut with all that lies between."""
    kept = [n for n, character in enumerate(chars.text) if character.isalpha()]
    return Chars(
        "".join(chars.text[n] for n in kept),
        [chars.starts[n] for n in kept],
        [chars.ends[n] for n in kept],
    )


def _squeezed(chars: Chars) -> Chars:
    """One letter for the whole run."""
    return Chars(chars.text[:1], chars.starts[:1], chars.ends[-1:])


_RUN = regex.compile(r"(?P<in>[A-Za-z0-9+/_-]+)|[^A-Za-z0-9+/_-]+")


class Runs:
    """Shows runs of at least 16 base64 characters, a line break behind each, and nothing else.

    A run may be wrapped into lines, as mail and PEM have it; these show as one.
    """

    least = 16

    def __init__(self) -> None:
        self._start = Chars()  # of a run that may yet be too short
        self._inside = False
        self._edge = 0  # end of what was fed, in the original

    @property
    def held(self) -> int | None:
        return self._start.starts[0] if self._start.starts else None

    def feed(self, chars: Chars, *, final: bool) -> Chars:
        out = Chars()
        for token in _RUN.finditer(chars.text):
            at, end = token.span()
            if token["in"]:
                self._start.extend(chars.part(at, end))
                self._inside = self._inside or len(self._start.text) >= self.least
                if self._inside:
                    out.extend(self._start.take(len(self._start.text)))
                continue
            if self._inside:
                at = next((n for n in range(at, end) if chars.text[n] not in "\r\n"), end)
            if at < end:
                self._end(out, chars.starts[at])
        self._edge = chars.ends[-1] if chars.ends else self._edge
        if final:
            self._end(out, self._edge)
        return out

    def _end(self, out: Chars, at: int) -> None:
        if self._inside:
            out.add("\n", at, at)
        self._start, self._inside = Chars(), False


class Base64:
    """Shows what `Runs` say, and their line breaks.

    Each four characters give three bytes, so a run is decoded as it grows, whatever its length;
    bytes that are no UTF-8 show as U+FFFD.

    skip: characters left out at the start of each run, which may be those of a word before it.
    """

    def __init__(self, skip: int) -> None:
        self._skip = self._left = skip
        self._group = Chars()
        self._bytes: list[tuple[int, int, int]] = []  # byte, start, end

    @property
    def held(self) -> int | None:
        if self._bytes:
            return self._bytes[0][1]
        return self._group.starts[0] if self._group.starts else None

    def feed(self, chars: Chars, *, final: bool) -> Chars:  # noqa: ARG002 - runs end in a line break
        out, end = Chars(), -1
        for run in chars.text.split("\n"):
            at, end = end + 1, end + 1 + len(run)
            if at:
                self._decode(out, last=True)
                out.extend(chars.part(at - 1, at))
                self._left = self._skip
            skipped = min(self._left, len(run))
            self._left -= skipped
            self._group.extend(chars.part(at + skipped, end))
            self._decode(out, last=False)
        return out

    def _decode(self, out: Chars, *, last: bool) -> None:
        group = self._group
        while len(group.text) >= 4 or (last and group.text):
            four = group.take(min(4, len(group.text)))
            if len(four.text) > 1:
                plain = four.text.replace("-", "+").replace("_", "/")
                for byte in base64.b64decode(plain + "=" * (-len(plain) % 4)):
                    self._bytes.append((byte, four.starts[0], four.ends[-1]))
        self._show(out, last=last)

    def _show(self, out: Chars, *, last: bool) -> None:
        """Show the bytes as UTF-8, a character as soon as it is whole."""
        while self._bytes:
            lead = self._bytes[0][0]
            size = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            if len(self._bytes) < size and not last:
                return
            group, self._bytes = self._bytes[:size], self._bytes[size:]
            try:
                text = bytes(byte for byte, _, _ in group).decode()
            except UnicodeDecodeError:
                text = "\ufffd"
                self._bytes[:0] = group[1:]
                group = group[:1]
            out.add(text, group[0][1], group[-1][2])


_PERCENT = r"(?:%[0-9A-Fa-f]{2}){1,64}"


def _percent(chars: Chars) -> Chars:
    """The text of percent-encoded bytes (RFC 3986, 2.1), each character with its own bytes."""
    raw = bytes.fromhex(chars.text.replace("%", ""))
    out, at = Chars(), 0
    while at < len(raw):
        size = 1 if raw[at] < 0xC0 else 2 if raw[at] < 0xE0 else 3 if raw[at] < 0xF0 else 4
        try:
            text = raw[at : at + size].decode()
        except UnicodeDecodeError:
            text, size = "\ufffd", 1
        end = min(at + size, len(raw))
        out.add(text, chars.starts[3 * at], chars.ends[3 * end - 1])
        at = end
    return out


def _rewrite(pattern: str, write: Callable[[Chars], Chars]) -> Callable[[], Step]:
    def make() -> Step:
        found, alive = _compiled(pattern)
        return Rewrite(found, alive, write)

    return make


def _fold() -> Step:
    return Each(fold_character)


def _leet(table: Mapping[str, str]) -> Callable[[], Step]:
    return lambda: Each(lambda character: table.get(character, character))


_JOINED = _rewrite(_SPELLED, _letters)
_BASE64: tuple[Callable[[], Step], ...] = tuple(partial(Base64, skip) for skip in range(4))
_ONE_WAY: tuple[Row, ...] = ((),)

#: Steps of each view, by its name in a policy: those that its ways share, and those of each way.
#: In `stretched` the terms are, not the text.
VIEWS: Mapping[str, tuple[Row, tuple[Row, ...]]] = {
    "plain": ((), _ONE_WAY),
    "fold": ((_fold,), _ONE_WAY),
    "leet": ((_fold, _leet(_LEET)), _ONE_WAY),
    "leet-l": ((_fold, _leet(_LEET_L)), _ONE_WAY),
    "joined": ((_fold, _leet(_LEET), _JOINED), _ONE_WAY),
    "squeezed": ((_fold, _leet(_LEET), _JOINED, _rewrite(_REPEATED, _squeezed)), _ONE_WAY),
    "stretched": ((_fold, _leet(_LEET), _JOINED), _ONE_WAY),
    "base64": ((Runs,), tuple((outer, _fold) for outer in _BASE64)),
    "base64-twice": (
        (Runs,),
        tuple((outer, Runs, inner, _fold) for outer in _BASE64 for inner in _BASE64),
    ),
    "percent": ((_rewrite(_PERCENT, _percent), _fold), _ONE_WAY),
}
#: Names that stand for several views.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "disguised": ("fold", "leet", "leet-l", "joined", "squeezed", "stretched"),
    "decoded": ("base64", "base64-twice", "percent"),
}


def open_view(name: str) -> View:
    """The view of that name, for one text."""
    return View(*VIEWS[name])
