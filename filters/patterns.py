"""Compiles and checks the patterns of the `regex` filter, and joins them for liveness.

A start is *live* while a match that begins there could still complete or still change: while the
pattern can consume all that is there, wholly or in part. `\\b`, `\\B`, `$` and their like say
nothing at the end of what is there, since the next character decides: in the pattern for liveness
they ask for one more character first, and so end as a partial match.

The earliest live start is found in one call. `search(partial=True)` alone is a trap: it prefers a
whole match anywhere to an earlier partial one. So the pattern is followed by "one more character,
and then fail": no whole match exists, and the only partial ones are those that reach the end.
Checked against `fullmatch(text, i, partial=True)` at every start: see tests/filters/test_regex.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import regex

from filters.errors import FilterConfigError, quoted
from filters.folding import PRINTED, plain
from filters.looking_behind import lazy_behind
from filters.pattern_checks import problem, size_problem

Validator = Callable[[str], bool]

# Lines are the unit of `^` and `$`. Without MULTILINE, `$` also matches before a last newline, and
# whether a newline is the last one cannot be known while the text grows.
FLAGS = regex.VERSION0 | regex.MULTILINE

_REFUSED_FLAGS = {
    "r": "matching backwards cannot follow text as it grows",
    "f": "full case-folding has no partial matches: write both forms",
    "V": "(?V1) changes what flags mean: leave it out",
    "b": "best-of matching cannot follow text as it grows",
    "p": "longest-of matching cannot follow text as it grows",
    "e": "fuzzy matching has no partial matches",
}
_PRINTED = {typed: f"[{regex.escape(typed)}{each}]" for typed, each in PRINTED.items()}
#: Groups inside each other; the library's parser and ours call themselves for each.
_DEEPEST = 50
_LEADING_FLAGS = regex.compile(r"\(\?([a-zA-Z0-9]+)\)")
_REFUSED_PARTS = (
    (r"\\[GK]", "\\G and \\K move the start of a match"),
    (r"\\[1-9]", "number references shift when patterns are joined: use (?P<name>…) and (?P=name)"),
    (r"\(\*|\(\?(?:R|&|[0-9])", "verbs and recursion are not bounded"),
    (r"\(\?[a-zA-Z0-9]+\)", "flags stand at the very start, or scoped as in (?i:…)"),
    (r"\(\?[a-z]*[rfVbpe][a-z0-9-]*:", "that flag cannot follow text as it grows"),
    (r"\{[^{}]*[<=]\d", "fuzzy matching has no partial matches"),
    ("\x08", "a backspace, which YAML makes of \\b in double quotes: use single quotes"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern that reports one category; `check` may still reject a match.

    branches: the sources of its outermost alternatives.
    """

    category: str
    pattern: regex.Pattern[str]
    source: str
    branches: tuple[str, ...]
    check: Validator | None = None


def compile_rule(
    category: str,
    source: str,
    check: Validator | None = None,
    path: tuple[str | int, ...] = (),
    *,
    trusted: bool = False,
) -> Rule:
    """Compile one pattern. Raises FilterConfigError, with `path`, if it cannot be used.

    trusted: leave out the check that it takes linear time. For patterns that this package makes,
    and for tests; nothing in a policy leads here.
    """
    flags, body = _split_flags(source)
    said = quoted(source)
    _refuse(flags, body, path)
    if not trusted and _depth(body) > _DEEPEST:
        raise FilterConfigError(f"too deep a pattern, more than {_DEEPEST} groups: {said}", path)
    scoped = f"(?{flags}:{body})" if flags else f"(?:{body})"
    # Before the library compiles it: that writes repeats out, and may take all memory.
    if not trusted and (wrong := size_problem(scoped, FLAGS)):
        raise FilterConfigError(f"{wrong}: {said}", path)
    try:
        pattern = regex.compile(scoped, FLAGS)
    except (regex.error, ValueError) as error:
        raise FilterConfigError(f"not a regular expression: {error}: {said}", path) from error
    except (RecursionError, MemoryError) as error:
        raise FilterConfigError(f"too large a pattern: {said}", path) from error
    if pattern.search("") is not None:
        raise FilterConfigError(f"the pattern matches the empty text: {said}", path)
    if not trusted and (wrong := problem(scoped, FLAGS)):
        raise FilterConfigError(f"{wrong}: {said}", path)
    opening = scoped[: scoped.index(":") + 1]
    branches = tuple(f"{opening}{branch})" for branch in _alternatives(body))
    return Rule(category, pattern, scoped, branches, check)


def live_pattern(source: str) -> regex.Pattern[str]:
    """A pattern that matches partially, with `partial=True`, where `source` is live."""
    lenient = _lenient(lazy_behind(source))
    return regex.compile(rf"(?:{lenient})(?s:.)(?!)", FLAGS, cache_pattern=False)


def no_term(term: object) -> str | None:
    """What is wrong with an item of a list of terms."""
    if isinstance(term, str) and term.strip():
        return None
    mend = "; write it in quotes" if isinstance(term, int | float) else ""
    return f"{quoted(term)} is no word or phrase{mend}"


def terms_pattern(terms: Sequence[str], allow: Sequence[str] = (), *, stretch: bool = False) -> str:
    """A pattern for any of `terms`, whatever their case and the white space between their words.

    A term is bounded by words' ends where it begins or ends with a word character.
    allow: longer phrases; a term does not count where it stands inside one of them.
    stretch: letters of a term may be repeated, up to 40 times.
    """
    bodies = []
    phrases = [plain(phrase) for phrase in allow]
    for term in sorted(set(map(plain, terms)), key=lambda term: (-len(term), term)):
        vetoes = "".join(veto for phrase in phrases for veto in _vetoes(term, phrase))
        bodies.append(vetoes + _bounded(term, stretch=stretch))
    return "(?i)" + "|".join(bodies)


def _bounded(phrase: str, *, stretch: bool = False) -> str:
    phrase = phrase.strip()
    left = r"\b" if phrase[0].isalnum() else ""
    right = r"\b" if phrase[-1].isalnum() else ""
    return left + _spaced(phrase, stretch=stretch) + right


def _spaced(phrase: str, *, stretch: bool = False) -> str:
    write = _stretched if stretch else _letters
    return r"\s{1,8}".join(write(word) for word in regex.split(r"\s+", phrase))


def _letters(word: str) -> str:
    """A word as it is typed and as it is printed: `l'arme` and `l’arme`."""
    return "".join(_PRINTED.get(letter) or regex.escape(letter) for letter in word)


def _stretched(word: str) -> str:
    runs = ((letter, len(list(same))) for letter, same in groupby(word))
    return "".join(f"{_letters(letter)}{{{count},{40 + count}}}" for letter, count in runs)


def _vetoes(term: str, phrase: str) -> Iterator[str]:
    """Look-arounds that fail where `term` stands inside `phrase`, one for each place in it."""
    inner, outer = (" ".join(text.split()).lower() for text in (term, phrase))
    at = outer.find(inner)
    while at >= 0:
        before, after = outer[:at], outer[at + len(inner) :]
        left = r"\b" if outer[0].isalnum() else ""
        right = r"\b" if outer[-1].isalnum() else ""
        if before or after:
            # A repeat that gives back, in a look-behind, leaves false partial matches behind it.
            kept = _spaced(before).replace("{1,8}", "{1,8}+")
            behind = f"(?<={left}{kept})" if before else ""
            yield f"(?!{behind}{_spaced(inner)}{_spaced(after)}{right})"
        at = outer.find(inner, at + 1)


def _split_flags(source: str) -> tuple[str, str]:
    leading = _LEADING_FLAGS.match(source)
    return (leading[1], source[leading.end() :]) if leading else ("", source)


def _refuse(flags: str, body: str, path: tuple[str | int, ...]) -> None:
    for flag in flags:
        if flag in _REFUSED_FLAGS:
            raise FilterConfigError(f"(?{flag}): {_REFUSED_FLAGS[flag]}", path)
    # Escaped characters and character classes are blanked first: `\\G` is a backslash and a G.
    bare = regex.sub(r"\\\\", "  ", body)
    bare = regex.sub(r"\\[\[\](){}]", "  ", bare)
    bare = regex.sub(r"\[\^?\]?[^\]]*\]", lambda m: " " * len(m[0]), bare)
    for part, why in _REFUSED_PARTS:
        if found := regex.search(part, bare):
            raise FilterConfigError(f"{quoted(found[0])} at {found.start()}: {why}", path)


# Conditions that the next character may make or unmake. In a class `\\b` and `$` are characters.
_AT_END = regex.compile(r"\\(?s:.)|\[\^?\]?(?:\\(?s:.)|\[:\^?\w+:\]|[^\]\\])*\]|\$")
_CONDITIONS = frozenset(["\\b", "\\B", "\\m", "\\M", "\\Z", "\\z", "$"])


_PARTS = regex.compile(_AT_END.pattern + r"|[(|)]|[^\\(|)\[$]+|.", regex.S)


def _depth(body: str) -> int:
    """How deep groups stand inside each other."""
    deepest = depth = 0
    for part in _PARTS.findall(body):
        depth += (part == "(") - (part == ")")
        deepest = max(deepest, depth)
    return deepest


def _alternatives(body: str) -> list[str]:
    """The outermost alternatives of a pattern."""
    parts, depth = [""], 0
    for part in _PARTS.findall(body):
        depth += (part == "(") - (part == ")")
        if part == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += part
    return parts


def _lenient(source: str) -> str:
    """The pattern with conditions that ask for one more character before they say anything."""

    def ask(found: regex.Match[str]) -> str:
        return f"(?:(?=(?s:.)){found[0]})" if found[0] in _CONDITIONS else found[0]

    return str(_AT_END.sub(ask, source))
