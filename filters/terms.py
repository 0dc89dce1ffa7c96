"""The `terms` filter: lists of a hundred thousand words and phrases, at a word's delay.

All terms are one automaton (A. V. Aho, M. J. Corasick: Efficient string matching, 1975), which the
text goes through once, folded (see `filters.folding`). The earliest live start is the longest end
of the text that begins a term; a term that is complete stays undecided until what follows shows
whether a word ends there.

Findings of a category are those of the whole text: from left to right, the longest that begins
first, none overlapping. A term does not count inside a longer one that the category allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import ahocorasick  # type: ignore[import-not-found]

from filters.errors import FilterConfigError, quoted
from filters.folding import BEHIND, Folded, fold_term, kind
from filters.patterns import no_term
from filters.registry import Resources
from filters.types import Context, Finding, Piece, Progress, Scope, Span

#: Characters that a term may have, folded: so far back may a live start lie.
LONGEST = 256
#: How often a letter of a stretched term may be repeated, beside what the term says.
_STRETCH = 40
#: Text is taken in steps of at most so many characters, and let go of by as many.
_STEP = 1024


Runs = tuple[int, ...]


@dataclass(slots=True)
class Entry:
    """What a folded text stands for.

    found, allowed: numbers of categories; for each, of stretched terms, how often each letter is
    written.
    """

    length: int
    found: dict[int, set[Runs]] = field(default_factory=dict)
    allowed: dict[int, set[Runs]] = field(default_factory=dict)


class TermsFilter:
    """Reports every term of every category, with score 1.

    terms, allow: for each category, its terms, and longer ones inside which they do not count.
    """

    scope: Scope = "message"
    immediate = True

    def __init__(
        self,
        name: str,
        terms: Mapping[str, Iterable[str]],
        allow: Mapping[str, Iterable[str]] | None = None,
        *,
        stretch: bool = False,
    ) -> None:
        self.name = name
        self.names = tuple(terms)
        self.stretch = stretch
        entries: dict[str, Entry] = {}
        for number, (category, listed) in enumerate(terms.items()):
            for term in listed:
                entry, runs = self._entry(entries, term)
                entry.found.setdefault(number, set()).add(runs)
            for term in (allow or {}).get(category, ()):
                entry, runs = self._entry(entries, term)
                entry.allowed.setdefault(number, set()).add(runs)
        if not any(entry.found for entry in entries.values()):
            raise FilterConfigError("a terms filter needs at least one term")
        self.longest = max(map(len, entries))
        self.automaton: Any = ahocorasick.Automaton()
        for text, entry in entries.items():
            self.automaton.add_word(text, entry)
        self.automaton.make_automaton()

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> TermsFilter:
        """Build from YAML: `{category: [term] | {terms | file, allow}}`."""
        terms, allow, stretch = {}, {}, False
        for category, entry in cls.expand(options, resources).items():
            listed = isinstance(options, Mapping) and isinstance(options[category], list)
            path = (category,) if listed else (category, "terms")
            terms[category] = _checked(entry["terms"], path, resources.cap)
            allow[category] = _checked(entry["allow"], (category, "allow"), resources.cap)
            stretch = stretch or entry.get("stretch") is True
        return cls(name, terms, allow, stretch=stretch)

    @staticmethod
    def expand(options: object, resources: Resources) -> dict[str, dict[str, Any]]:
        """The options with all lists written out: `{category: {terms, allow}}`."""
        if not isinstance(options, Mapping) or not options:
            raise FilterConfigError("expected {category: [term, …]}, or {category: {file: …}}")
        return {str(c): _expanded(str(c), entry, resources) for c, entry in options.items()}

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(self.names)

    def open(self, context: Context) -> TermsScan:  # noqa: ARG002
        return TermsScan(self)

    def _entry(self, entries: dict[str, Entry], term: str) -> tuple[Entry, Runs]:
        text = fold_term(term)
        runs: Runs = ()
        if self.stretch:
            letters = list(_runs(text))
            text, runs = "".join(c for c, _ in letters), tuple(count for _, count in letters)
        return entries.setdefault(text, Entry(len(text))), runs


@dataclass(slots=True)
class _Match:
    """A term in the folded text, and the categories that it is of."""

    start: int
    end: int
    found: Sequence[int]
    allowed: Sequence[int]


class TermsScan:
    def __init__(self, owner: TermsFilter) -> None:
        self._owner = owner
        self._folded = Folded(stretch=owner.stretch)
        self._matches = owner.automaton.iter("")
        self._undecided: list[tuple[int, Entry]] = []  # it is not known yet whether words end there
        self._decided: list[_Match] = []  # something longer may still begin at or before
        self._allowed: list[_Match] = []
        self._live = 0  # the earliest live start, in the folded text
        self._ends = [0] * len(owner.names)  # per category: end of its last finding, folded

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        text = piece.text
        last = (max(len(text), 1) - 1) // _STEP * _STEP
        for at in range(0, last, _STEP):
            self._step(text[at : at + _STEP], findings, final=False)
        self._step(text[last:], findings, final=final)
        if findings:
            findings.sort(key=lambda f: (f.span, f.category))
        return Progress(self._folded.original(self._live), findings)

    async def aclose(self) -> None:
        self._undecided, self._decided, self._allowed = [], [], []
        self._folded = Folded()

    def _step(self, text: str, findings: list[Finding], *, final: bool) -> None:
        new = self._folded.feed(text)
        if self._undecided:
            waiting, self._undecided = self._undecided, []
            for start, entry in waiting:
                self._decide(start, entry, final=final)
        self._matches.set(new, False)  # go on from the state reached
        for last, entry in self._matches:
            self._decide(last + 1 - entry.length, entry, final=final)
        self._move(final=final)
        if self._decided:
            self._report(findings)
        if self._live - self._folded.base > _STEP:
            self._folded.forget(self._live - BEHIND)

    def _decide(self, start: int, entry: Entry, *, final: bool) -> None:
        """Keep a match if words end on both sides of it, or if that cannot be known yet."""
        folded, stretch = self._folded, self._owner.stretch
        end, begin = start + entry.length, start - folded.base
        left: bool | None = True
        if kind(folded.text[begin]):
            left = folded.ends(start, final=final)
            if left is False:
                return
        right: bool | None = True
        if kind(folded.text[begin + entry.length - 1]):
            right = folded.ends(end, final=final)
        elif stretch and end == folded.end and not final:
            right = None
        if right is False:
            return
        if left is None or right is None:
            self._undecided.append((start, entry))
            return
        found, allowed = list(entry.found), list(entry.allowed)
        if stretch:
            seen = folded.runs[begin : begin + entry.length]
            found = [number for number in found if _stretched(seen, entry.found[number])]
            allowed = [number for number in allowed if _stretched(seen, entry.allowed[number])]
        self._decided.append(_Match(start, end, found, allowed))

    def _move(self, *, final: bool) -> None:
        """Move the earliest live start right, past what can begin no term any more."""
        folded, owner = self._folded, self._owner
        text, base = folded.text, folded.base
        end = len(text)
        if final:
            self._live = base + end
            return
        first = min(start for start, _ in self._undecided) - base if self._undecided else end
        live = max(self._live - base, min(first, end - owner.longest))
        begins = owner.automaton.longest_prefix
        while live < first:
            if begins(text[live:]) == end - live and not (
                kind(text[live]) and folded.ends(base + live, final=False) is False
            ):
                break
            live += 1
        self._live = base + live

    def _report(self, findings: list[Finding]) -> None:
        """Report what begins before the earliest live start: nothing of it can change."""
        settled = [match for match in self._decided if match.start < self._live]
        if not settled:
            return
        self._decided = [match for match in self._decided if match.start >= self._live]
        self._allowed += [match for match in settled if match.allowed]
        for match in sorted(settled, key=lambda m: (m.start, -m.end)):
            for number in match.found:
                if match.start >= self._ends[number] and not self._is_allowed(match, number):
                    self._ends[number] = match.end
                    findings.append(self._finding(match, number))
        self._allowed = [match for match in self._allowed if match.end > self._live]

    def _is_allowed(self, match: _Match, number: int) -> bool:
        return any(
            number in other.allowed
            and other.start <= match.start
            and match.end <= other.end
            and other.end - other.start > match.end - match.start
            for other in self._allowed
        )

    def _finding(self, match: _Match, number: int) -> Finding:
        original, owner = self._folded.original, self._owner
        end = max(original(match.end), original(match.end - 1) + 1)
        return Finding(owner.name, owner.names[number], Span(original(match.start), end))


def _stretched(seen: Sequence[int], terms: set[Runs]) -> bool:
    return any(
        all(count <= run <= count + _STRETCH for run, count in zip(seen, term, strict=True))
        for term in terms
    )


def _runs(text: str) -> Iterator[tuple[str, int]]:
    """Each letter with how often it stands in a row; what is no letter stands alone."""
    for letter, same in groupby(text):
        count = len(list(same))
        yield from [(letter, count)] if letter.isalpha() else [(letter, 1)] * count


def _expanded(category: str, entry: object, resources: Resources) -> dict[str, Any]:
    if isinstance(entry, list):
        entry = {"terms": entry}
    if not isinstance(entry, Mapping):
        raise FilterConfigError("expected a list of terms, or {file: …}", (category,))
    if unknown := set(entry) - {"terms", "file", "allow", "stretch"}:
        word = min(unknown)
        raise FilterConfigError(f"unknown key {word!r}: terms, file, allow", (category, word))
    if ("terms" in entry) == ("file" in entry):
        raise FilterConfigError("give either `terms` or `file`", (category,))
    made = {key: entry[key] for key in ("terms", "stretch") if key in entry}
    if "file" in entry:
        made["terms"] = _read(entry["file"], (category, "file"), resources)
    allow = entry.get("allow", [])
    if isinstance(allow, Mapping) and set(allow) == {"file"}:
        allow = _read(allow["file"], (category, "allow", "file"), resources)
    return {**made, "allow": allow}


def _read(name: object, path: tuple[str | int, ...], resources: Resources) -> list[str]:
    """The lines of a file; empty ones and those that begin with `#` say nothing."""
    if not isinstance(name, str):
        raise FilterConfigError("`file` is a name", path)
    try:
        text = resources.read(name)
    except FilterConfigError as error:
        raise FilterConfigError(str(error), path) from error
    terms = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if wrong := _too_long(line, resources.cap):
            raise FilterConfigError(f"{name}:{number}: {wrong}", path)
        terms.append(line)
    if not terms:
        raise FilterConfigError(f"{name}: no terms in it", path)
    return terms


def _checked(terms: object, path: tuple[str, ...], cap: int) -> list[str]:
    if not isinstance(terms, list) or (path[-1] != "allow" and not terms):
        raise FilterConfigError("expected a list of words or phrases", path)
    for number, term in enumerate(terms):
        if wrong := no_term(term) or _too_long(term, cap):
            raise FilterConfigError(wrong, (*path, number))
    return terms


def _too_long(term: str, cap: int) -> str | None:
    most, folded = min(LONGEST, cap // 2), fold_term(term)
    if "\n" in folded:  # as folding shows white space that is longer
        return f"a term has at most 8 characters of white space in a row: {quoted(term)}"
    return f"a term has at most {most} characters: {quoted(term)}" if len(folded) > most else None
