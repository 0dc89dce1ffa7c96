"""The regex filter: findings of growing text equal those of the whole text matched at once."""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters.errors import FilterConfigError
from filters.patterns import _lenient, compile_rule
from filters.regex import STEP, RegexFilter
from filters.registry import Resources
from filters.starts import LIVE, Starts
from filters.types import OVERFLOW, Context, Finding, Piece
from policies.document import Document
from policies.loader import LIBRARY

PLAIN = Resources()
AWKWARD = {
    "alternatives": "abcd|b",
    "greedy": "a+b?",
    "lazy": "a+?b",
    "boundary": r"\bab\b",
    "no_boundary": r"a\Bb|b\B",
    "ahead": "ab(?=c)",
    "not_ahead": "ab(?!ca)",
    "behind": "(?<=a)b+",
    "not_behind": "(?<!a)bc",
    "behind_perhaps": "(?i)(?<=a(?:b|c)?+ ?+)[bc]+a",
    "behind_repeated": "(?<=(?:a|b.)+)c",
    "line": "^ab$",
    "possessive": "a++b",
    "atomic": "(?>ab|a)c",
    "reference": "(?P<x>[ab])c(?P=x)",
    "case": "(?i)ABC",
    "word_behind": r"a \b",
    "no_word_ahead": r"ab(?! c\b)",
    "not_at_end": "ab(?!$)",
    "at_end": r"ab\Z|a$",
    "class": r"a[\b$\]b]\b",
    "email": r"\b[\w.]{1,64}@[a-c]+(?:\.[a-c]+)+",
}


MORE = [*"abcC.@\n", "bc", "ab", "cd", "ca", "ba", " c", "@a", ".a", "$]b", "a.b"]


def build(name: str, options: object) -> RegexFilter:
    return RegexFilter.from_options(name, options, PLAIN)


def unchecked(name: str, patterns: dict[str, str], cap: int = 4096) -> RegexFilter:
    """With patterns that a policy could not have: they may take more than linear time."""
    return RegexFilter(
        name, [compile_rule(c, p, trusted=True) for c, p in patterns.items()], cap=cap
    )


def whole(source: str, text: str) -> list[tuple[int, int]]:
    return [m.span() for m in regex.finditer(source, text, regex.MULTILINE) if m[0]]


async def scan(
    found_by: RegexFilter, text: str, cuts: list[int]
) -> tuple[list[Finding], list[tuple[int, int]]]:
    """Feed `text` cut at `cuts`; return the findings and (fed, settled) after each feed."""
    opened = found_by.open(Context("output"))
    findings: list[Finding] = []
    progress: list[tuple[int, int]] = []
    edges = [0, *sorted(cuts), len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await opened.feed(Piece(text[start:end]), final=number == len(edges) - 2)
        assert all(f.span.start >= (progress[-1][1] if progress else 0) for f in step.findings)
        findings += step.findings
        progress.append((end, step.settled))
    return findings, progress


@st.composite
def cut_text(draw: st.DrawFn) -> tuple[str, list[int]]:
    text = draw(st.text(alphabet="abcABC .@\n", max_size=40))
    return text, draw(st.lists(st.integers(0, len(text)), max_size=12))


@given(cut_text(), st.sets(st.sampled_from(sorted(AWKWARD)), min_size=1, max_size=4))
@example(("abc", [2]), {"alternatives"})
@example(("abca", [2, 3]), {"not_ahead"})
async def test_any_cut_finds_what_each_pattern_finds_in_the_whole_text(
    case: tuple[str, list[int]], names: set[str]
) -> None:
    text, cuts = case
    found_by = unchecked("f", {name: AWKWARD[name] for name in sorted(names)})
    findings, progress = await scan(found_by, text, cuts)
    for name in names:
        spans = [(f.span.start, f.span.end) for f in findings if f.category == name]
        assert spans == whole(AWKWARD[name], text)
    settled = [s for _, s in progress]
    assert settled == sorted(settled)
    assert settled[-1] == len(text)


@given(cut_text(), st.sets(st.sampled_from(sorted(AWKWARD)), min_size=1, max_size=4))
def test_what_lies_before_the_earliest_live_start_nothing_can_change(
    case: tuple[str, list[int]], names: set[str]
) -> None:
    text, begins = case
    found_by = unchecked("f", {name: AWKWARD[name] for name in sorted(names)})
    lenient = [_lenient(rule.source) for rule in found_by.rules]
    for begin in begins:
        live = (
            start
            for start in range(begin, len(text))
            for source in lenient
            if regex.fullmatch(source, text, regex.MULTILINE, start, partial=True)
        )
        scanned = found_by.open(Context("output"))
        scanned._text, scanned._live = text, begin
        scanned._advance([])
        # The library calls some dead starts live (`a+?b` on `a@`): we hold no more than it would,
        # and what we let go of no text behind it can change.
        assert scanned._live >= next(live, len(text))
        for rule, more in product(found_by.rules, MORE):
            for start in range(begin, scanned._live):
                now, then = (rule.pattern.match(t, start) for t in (text, text + more))
                assert (now and now.span()) == (then and then.span())


# What lies between the characters of these may end a match where characters alone would not.
ASKING = {
    "round": r"(?:a(?=b)b?)+c",
    "round_behind": r"(?:a(?<!ba)b?)+c",
    "between": r"a(?<!ba)b",
    "few": "a{1,3}b",
    "a_dozen": "a{1,12}b",
    "nested": "(?:ab?){2}c",
    "never": r"a(?!b)(?<=b)b",
    "not_git": "(?i)(?<![a-b])(?!ab|c)[a-c.]{1,64}@",
    "opens": r"(?!\Bab)[ab]{1,20}c",
    "class": r"(?i)[^A.]+@",
    "ascii": r"(?a)[\w.]+@",
    "encoded": r"(?a:\w)+@",
    "kept": "(?>a|ab)[ab]+c",
    "possessive_first": "a?+ab",
    "choice": r"(?:a|b\b|c)a+@",
    "optional": r"(?:a(?<!ba))?b+@",
    "line_first": "^a+b",
    "inner_guard": r"(?:\ba)+b",
    "guarded_choice": r"(?:\ba|\Bb)[abc]+@",
    "condition": "(?P<x>a)?(?(x)b|c)a+@",
}


@cache
def starts_of(source: str) -> Starts:
    return unchecked("f", {"x": source}).starts


@given(st.text(alphabet="abcABCéſ .@\n", max_size=30) | st.text(alphabet="ab", max_size=16))
@example("aaaaaaaaaaaa")
@example("aaaa")
@example("ababab")
@example("cab")
@example("éé")
def test_what_is_called_live_for_sure_is_live(text: str) -> None:
    for source in {**AWKWARD, **ASKING}.values():
        starts = starts_of(source)
        for at in range(len(text)):
            if starts.look(text, at, final=False) is LIVE:
                assert any(b.live.match(text, at, partial=True) for b in starts.branches), source


async def test_ordinary_words_are_live_for_sure() -> None:
    starts = build("f", {"email": AWKWARD["email"], "not_git": ASKING["not_git"]}).starts
    assert starts.look("a cab", 2, final=False) is LIVE
    assert starts.look("a cab", 2, final=True) != LIVE


async def test_holds_only_what_could_still_match() -> None:
    found_by = build("f", {"email": AWKWARD["email"]})
    _, progress = await scan(found_by, "bab cab. abba@ab.ca, cc", [4, 8, 14, 19, 20])
    assert progress == [(4, 4), (8, 4), (14, 9), (19, 9), (20, 20), (23, 23)]


@settings(max_examples=100)  # each is slow, and there is little to vary
@given(st.lists(st.integers(0, 3 * STEP + 7), max_size=8), st.integers(0, 3 * STEP))
async def test_overflow_depends_on_the_text_alone(cuts: list[int], start: int) -> None:
    text = " " * start + "a" * (3 * STEP + 7)
    found_by = unchecked("f", {"x": r"\w+@\w+"}, cap=STEP + 1)
    at_once, _ = await scan(found_by, text, [])
    in_cuts, _ = await scan(found_by, text, [c for c in cuts if c <= len(text)])
    assert in_cuts == at_once
    assert [f.category for f in at_once] == [OVERFLOW] * len(at_once)
    assert at_once[0].span.start == start


async def test_long_text_keeps_a_bounded_buffer_and_its_offsets() -> None:
    found_by = build("f", {"x": r"(?<=\bkey )\d{4}\b"})
    text = "some words and a key 1234 then more. " * 1000
    opened = found_by.open(Context("output"))
    spans = []
    for at in range(0, len(text), 7):
        step = await opened.feed(Piece(text[at : at + 7]), final=at + 7 >= len(text))
        spans += [(f.span.start, f.span.end) for f in step.findings]
        assert len(opened._text) < 6 * STEP
    assert spans == whole(r"(?<=\bkey )\d{4}\b", text)


async def test_each_rule_is_matched_alone() -> None:
    found_by = unchecked("f", {"email": r"\w+@\w+\.\w+", "evil": r"evil@corp\.com please"})
    findings, _ = await scan(found_by, "evil@corp.com please", [9])
    assert {f.category for f in findings} == {"email", "evil"}


async def test_terms_are_whole_words_in_any_case_and_spacing() -> None:
    found_by = build("f", {"x": {"terms": ["blue moon", "l'arme", "!!"]}})
    text = "Blue  Moon, bluer moon, L'ARME, larmes !!"
    findings, _ = await scan(found_by, text, [3])
    assert [text[f.span.start : f.span.end] for f in findings] == ["Blue  Moon", "L'ARME", "!!"]


ALLOWED = {"x": {"terms": ["ab", "b c"], "allow": ["ab-ba", "c ab", "a'ab", "b c b", "abc"]}}


@given(st.text(alphabet="abc '-", max_size=24), st.lists(st.integers(0, 24), max_size=6))
async def test_a_term_does_not_count_inside_an_allowed_phrase(text: str, cuts: list[int]) -> None:
    """Against the plain meaning: every whole term that no whole allowed phrase covers."""

    def places(phrases: list[str]) -> list[tuple[int, int]]:
        sources = [r"\b" + p.replace(" ", r"\s{1,8}") + r"\b" for p in phrases]
        return [m.span() for s in sources for m in regex.finditer(s, text, overlapped=True)]

    found_by = build("f", ALLOWED)
    findings, _ = await scan(found_by, text, [c for c in cuts if c <= len(text)])
    allowed = places(ALLOWED["x"]["allow"])
    expected, last = [], 0  # longer terms first, left to right, none overlapping
    for start, end in sorted(places(ALLOWED["x"]["terms"]), key=lambda s: (s[0], -s[1])):
        if start >= last and not any(a <= start and end <= b for a, b in allowed):
            expected.append((start, end))
            last = end
    assert [(f.span.start, f.span.end) for f in findings] == expected


@pytest.mark.parametrize("stretch", [False, True])
async def test_terms_are_found_as_they_are_printed_too(stretch: bool) -> None:
    options = {"terms": ["l'arme", "porte‑à‑faux"], "allow": ["l’arme blanche"], "stretch": stretch}
    text = "L’arme, l'arme, un porte-à-faux, un porte‑à‑faux, l'arme blanche."
    findings, _ = await scan(build("f", {"x": options}), text, list(range(1, len(text))))
    assert [text[f.span.start : f.span.end] for f in findings] == [
        "L’arme",
        "l'arme",
        "porte-à-faux",
        "porte‑à‑faux",
    ]


async def test_allow_lists_know_hyphens_and_elisions() -> None:
    options = {"x": {"terms": ["cul", "arme"], "allow": ["cul-de-sac", "cul de sac"]}}
    text = "Un cul-de-sac, un Cul  de  sac, l'arme, un cul, culinaire"
    findings, _ = await scan(build("f", options), text, [5, 8, 9])
    assert [text[f.span.start : f.span.end] for f in findings] == ["arme", "cul"]


async def test_a_check_may_reject_a_match() -> None:
    found_by = build("f", {"card": {"pattern": r"\b\d(?:[ -]?\d){12,18}\b", "check": "luhn"}})
    text = "4539 1488 0343 6467 and 4539 1488 0343 6468"
    findings, _ = await scan(found_by, text, [5])
    assert [f.span.end for f in findings] == [19]


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        ({"x": "(a"}, ("x",), "not a regular expression"),
        ({"x": "a*"}, ("x",), "matches the empty text"),
        ({"x": "(?r)ab"}, ("x",), "backwards"),
        ({"x": r"(a)\1"}, ("x",), "number references"),
        ({"x": r"a\Kb"}, ("x",), "\\K"),
        ({"x": "a(?i)b"}, ("x",), "very start"),
        ({"x": "(?:ab){e<=1}"}, ("x",), "fuzzy"),
        ({"x": "a(?R)?b"}, ("x",), "recursion"),
        ({"x": "\bab\b"}, ("x",), "single quotes"),
        ({"x": "(?V1)ab"}, ("x",), "V1"),
        ({"x": ["ab", "(?f)ß"]}, ("x", 1), "case-folding"),
        ({"x": {"pattern": "a", "chek": "luhn"}}, ("x", "chek"), "unknown key"),
        ({"x": {"pattern": "a", "check": "lun"}}, ("x", "check"), "luhn"),
        ({"x": {"pattern": "a", "terms": ["b"]}}, ("x",), "either"),
        ({"x": {"terms": []}}, ("x", "terms"), "list of words"),
        (
            {"x": {"terms": ["a", 2024]}},
            ("x", "terms", 1),
            "2024 is no word or phrase; write it in",
        ),
        ({"x": {"terms": ["a", " "]}}, ("x", "terms", 1), "' ' is no word or phrase"),
        ({"x": {"terms": ["a"], "allow": [3]}}, ("x", "allow", 0), "3 is no word or phrase"),
        ({"x": {"terms": ["a"], "allow": "b"}}, ("x", "allow"), "list of words"),
        ({"x": {"pattern": "a", "allow": ["b"]}}, ("x", "allow"), "goes with `terms`"),
        ({"x": 3}, ("x",), "expected a pattern"),
        ({}, (), "expected {category"),
    ],
)
def test_bad_options_say_what_and_where(
    options: object, path: tuple[str | int, ...], words: str
) -> None:
    with pytest.raises(FilterConfigError) as caught:
        build("f", options)
    assert words in str(caught.value)
    assert caught.value.path[: len(path)] == path


def test_escapes_are_not_taken_for_refused_parts() -> None:
    assert compile_rule("x", r"\\G[\[(?i)]\(\?R").pattern.search("\\G(?") is None
    assert compile_rule("x", r"\\K").pattern.search("\\K")


def shipped() -> tuple[dict[str, object], list[str]]:
    """All patterns of all packs, and their examples."""
    options: dict[str, object] = {}
    texts: list[str] = []
    for path in sorted((LIBRARY / "packs").glob("*.yaml")):
        data = Document(path.read_text(encoding="utf-8"), str(path)).data
        assert isinstance(data, dict)
        for category, entry in data.get("regex", {}).items():
            options[f"{path.stem}-{category}"] = entry
        for examples in data["examples"].values():
            texts += [*examples["hit"], *examples["pass"]]
    return options, texts


PACKS, EXAMPLES = shipped()
BITS = st.sampled_from([word for text in EXAMPLES for word in text.split()] + ["\n", ".", "é", "7"])


@cache
def all_packs() -> RegexFilter:
    return build("packs", PACKS)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(EXAMPLES) | BITS, min_size=1, max_size=5).map(" ".join),
    st.lists(st.integers(0, 300), max_size=4),
    st.booleans(),
)
async def test_shipped_patterns_find_in_any_cut_what_each_finds_alone(
    text: str, cuts: list[int], single: bool
) -> None:
    """Nothing that could begin is left out, whatever the pattern."""
    places = range(1, len(text)) if single else sorted(c for c in cuts if c <= len(text))
    findings, _ = await scan(all_packs(), text, list(places))
    found = sorted((f.category, f.span.start, f.span.end) for f in findings)
    meant = [
        (rule.category, *match.span())
        for rule in all_packs().rules
        for match in rule.pattern.finditer(text)
        if match[0] and (rule.check is None or rule.check(match[0]))
    ]
    assert found == sorted(meant)
