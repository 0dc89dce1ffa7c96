"""Normalised views: what a disguised text says, with a map back to the characters that say it.

A view is a row of steps, each a function of the text alone that works as the text grows. A step
takes characters, each with the span of the original that it stands for, and gives others; it holds
what it cannot decide yet. So a filter that reads a view is streamed exactly as one that reads the
text itself, and what it finds is cut from the original to the letter. What can be read in several
ways (base64, which may begin at any letter) is several rows under one name, behind a shared one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial

from confusable_homoglyphs import confusables  # type: ignore[import-untyped]

from filters.decoding import PERCENT, Base64, Runs, percent
from filters.view_steps import Chars, Each, Row, Step, rewriting


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
    """Each character of `text` folded."""
    return "".join(map(fold_character, text))


def _typed(character: str) -> str:
    """Folded, and what is typed as two letters as these: `coeur`. The classifier knows `cœur`."""
    return fold_character(character).replace("œ", "oe").replace("æ", "ae")


def typed(text: str) -> str:
    """`text` as the view `fold` shows it; for the terms that a filter looks for there."""
    return "".join(map(_typed, text))


_LEET = {"4": "a", "@": "a", "8": "b", "(": "c", "3": "e", "€": "e", "6": "g", "9": "g", "1": "i"}
_LEET |= {"!": "i", "0": "o", "5": "s", "$": "s", "7": "t", "2": "z"}
_LEET_L = _LEET | {"1": "l", "!": "l"}

_SEPARATORS = r"[ \u00a0.\-_*/|~·•,+:;'’]"
# One separator throughout: "b a d, b.a.d" are two words.
_SPELLED = rf"(?<!\p{{L}})\p{{L}}(?P<s>{_SEPARATORS})\p{{L}}(?:(?P=s)\p{{L}}){{1,40}}(?!\p{{L}})"
_REPEATED = r"(?P<c>\p{L})(?P=c){2,200}"


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


def _fold() -> Step:
    return Each(_typed)


def _leet(table: Mapping[str, str]) -> Callable[[], Step]:
    return lambda: Each(lambda character: table.get(character, character))


_JOINED = rewriting(_SPELLED, _letters)
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
    "squeezed": ((_fold, _leet(_LEET), _JOINED, rewriting(_REPEATED, _squeezed)), _ONE_WAY),
    "stretched": ((_fold, _leet(_LEET), _JOINED), _ONE_WAY),
    "base64": ((Runs,), tuple((outer, _fold) for outer in _BASE64)),
    "base64-twice": (
        (Runs,),
        tuple((outer, Runs, inner, _fold) for outer in _BASE64 for inner in _BASE64),
    ),
    "percent": ((rewriting(PERCENT, percent), _fold), _ONE_WAY),
}
#: Names that stand for several views.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "disguised": ("fold", "leet", "leet-l", "joined", "squeezed", "stretched"),
    "decoded": ("base64", "base64-twice", "percent"),
}


def open_view(name: str) -> View:
    """The view of that name, for one text."""
    return View(*VIEWS[name])
