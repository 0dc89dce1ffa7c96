"""Windows tile the text at offsets that depend on the text alone; filters built on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.classifier import ClassifierFilter
from filters.critique import CritiqueFilter, Every
from filters.errors import FilterConfigError, FilterFailed
from filters.registry import Resources, build, kinds
from filters.sentences import SentenceFilter
from filters.types import Context, Filter, Finding, Piece, Span, Stage
from filters.windows import Windows
from tests.support.filters import PureJudge, WordScorer

TEXTS = st.text(alphabet='ab .!?…"»)\n\u00a0。,;、', max_size=60)


def windows(
    text: str, cuts: Sequence[int] = (), limit: int = 12, clause: int | None = None
) -> list[str]:
    opened = Windows(limit, clause=clause)
    found = []
    edges = [0, *sorted(cuts), len(text)]
    for start, end in pairwise(edges):
        found += opened.feed(text[start:end], final=False)
    found += opened.feed("", final=True)
    assert [span.start for span, _ in found] == [0, *(span.end for span, _ in found)][:-1]
    assert all(text[span.start : span.end] == window for span, window in found)
    return [window for _, window in found]


@given(
    TEXTS,
    st.lists(st.integers(0, 60), max_size=8),
    st.integers(1, 20),
    st.none() | st.integers(0, 12),
)
def test_ends_depend_on_the_text_alone(
    text: str, cuts: list[int], limit: int, clause: int | None
) -> None:
    whole = windows(text, (), limit, clause)
    assert "".join(whole) == text
    assert all(1 <= len(window) <= limit for window in whole)
    assert windows(text, [c for c in cuts if c <= len(text)], limit, clause) == whole
    assert windows(text, range(1, len(text)), limit, clause) == whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came, he saw, he won. So", ["He came, he saw,", " he won.", " So"]),
        ("Well. He came, he saw, and won", ["Well.", " He came, he saw,", " and won"]),
        ("One thousand: 1,000 or so", ["One thousand:", " 1,000 or so"]),
        ("« Non » ; alors, oui", ["« Non » ; alors,", " oui"]),
        ("no clause has an end here at all", ["no clause has an end here at ", "all"]),
    ],
)
def test_a_long_sentence_ends_with_its_clauses(text: str, expected: list[str]) -> None:
    assert windows(text, (), 30, 10) == expected
    assert windows(text, range(1, len(text)), 30, 10) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three", ["One.", " Two!", " Three"]),
        ("Pi is 3.14. Yes", ["Pi is 3.14.", " Yes"]),
        ('So "no." Then', ['So "no."', " Then"]),
        ("« Oui ! » dit-il", ["« Oui !", " » dit-il"]),
        ("a\nb", ["a\n", "b"]),
        ("你好。再见", ["你好。", "再见"]),
        ("word " * 5, ["word word ", "word word ", "word "]),
        ("x" * 30, ["x" * 12, "x" * 12, "x" * 6]),
    ],
)
def test_windows_are_sentences_or_whole_words(text: str, expected: list[str]) -> None:
    assert windows(text) == expected


class OnlyBad(WordScorer):
    """Scores one category."""

    categories = ("bad",)

    def of(self, text: str) -> Mapping[str, float]:
        return {"bad": super().of(text)["bad"]}


async def scan(found_by: Filter, text: str, context: Context, every: int = 3) -> list[Finding]:
    opened = found_by.open(context)
    findings: list[Finding] = []
    for at in range(0, len(text), every):
        step = await opened.feed(Piece(text[at : at + every]), final=at + every >= len(text))
        findings += step.findings
    assert step.settled == len(text)
    await opened.aclose()
    return findings


async def test_classifier_spans_tile_and_read_what_came_before() -> None:
    scorer = WordScorer({"not\nnice": 0.9})
    found_by = ClassifierFilter("c", scorer, limit=40, context=8)
    findings = await scan(found_by, "It is not\nnice. Fine.\n\n", Context("output"))
    assert scorer.asked == ["It is not\n", " is not\nnice.", "ot\nnice. Fine."]
    bad = [(f.span, f.score) for f in findings if f.category == "bad"]
    assert bad == [(Span(0, 10), 0.0), (Span(10, 15), 0.9), (Span(15, 21), 0.0)]


@pytest.mark.parametrize("every", [1, 3, 50])
async def test_critique_asks_at_window_ends_and_reads_label_probabilities(every: int) -> None:
    text = "It is flu. Rest.  "
    judge = PureJudge(text)
    found_by = CritiqueFilter("doctor", "A diagnosis?")
    findings = await scan(found_by, text, Context("output", judge=judge), every)
    assert judge.asked == [10, 16]
    asked = await judge.score(found_by.suffix, found_by.labels, at=10)
    assert findings[0] == Finding("doctor", "yes", Span(0, 10), asked[" yes"])


@pytest.mark.parametrize(
    ("every", "stage", "expected"),
    [
        (None, "output", [10, 33, 36]),
        (None, "input", [36]),
        (None, "tool_arguments", [36]),
        ("end", "output", [36]),
        ("sentence", "input", [10, 33, 36]),
        (16, "output", [15, 29, 36]),
    ],
)
async def test_critique_asks_when_its_policy_says(
    every: Every | None, stage: Stage, expected: list[int]
) -> None:
    text = "It is flu. Lie down and rest now. Ok"
    judge = PureJudge(text)
    await scan(CritiqueFilter("d", "Q?", every=every), text, Context(stage, judge=judge))
    assert sorted(judge.asked) == expected


async def test_critique_without_a_model_fails_and_nonsense_fails() -> None:
    found_by = CritiqueFilter("doctor", "A diagnosis?")
    with pytest.raises(FilterFailed, match="no model"):
        found_by.open(Context("output"))

    class Silent(PureJudge):
        async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> dict[str, float]:  # noqa: ARG002
            return {}

    with pytest.raises(FilterFailed, match="judge gave"):
        await scan(found_by, "One. Two.", Context("output", judge=Silent("One. Two.")))


async def test_a_filter_in_one_coroutine() -> None:
    class Shouting(SentenceFilter):
        async def find(self, text: str, context: Context) -> Sequence[Finding]:  # noqa: ARG002
            bare = text.strip()
            return [self.finding("loud", text.index(bare), 999)] if bare.isupper() else []

    findings = await scan(Shouting("s"), "Hello. GO AWAY! Bye.", Context("output"))
    assert findings == [Finding("s", "loud", Span(7, 15))]


def test_kinds_are_built_by_name_and_errors_name_what_is_wrong() -> None:
    resources = Resources(classifiers={"words": WordScorer()}, judge=True)
    assert {"regex", "classifier", "critique"} <= set(kinds(resources))
    assert build("classifier", "c", "words", resources).name == "c"
    assert build("critique", "d", {"question": "Q?", "yes": " oui"}, resources).name == "d"
    for kind, options, words in [
        ("regx", {}, "unknown kind 'regx'"),
        ("classifier", "other", "no classifier 'other' in the settings: words"),
        ("classifier", {}, "expected the name"),
        ("critique", {"question": "Q", "n": 1}, "unknown key 'n'"),
        ("critique", {"question": "Q", "limit": "x"}, "`limit` is a whole number"),
        ("critique", {"question": "Q", "limit": True}, "`limit` is a whole number"),
        ("critique", {"question": "Q", "yes": ""}, "`yes` is text"),
        ("critique", {"question": "Q", "language": "de"}, "one of en, fr"),
        ("critique", {"question": "Q", "every": "word"}, "`every` is sentence, end"),
        ("critique", {"question": "Q", "every": 3}, "`every` is sentence, end"),
        ("critique", 3, "expected a question"),
    ]:
        with pytest.raises(FilterConfigError, match=words):
            build(kind, "x", options, resources)
    with pytest.raises(FilterConfigError, match="cannot"):
        build("critique", "d", "Q?", Resources())


async def test_a_harmless_sentence_stays_harmless_in_odd_company() -> None:
    found_by = ClassifierFilter("c", WordScorer({"bad": 0.9}), limit=80, context=80, least=20)
    text = "The bad house stands in a quiet street. The dog sleeps in its quiet garden. "
    findings = await scan(found_by, text, Context("output"))
    assert [f.score for f in findings if f.category == "bad"] == [0.9, 0.0]


async def test_a_sentence_cut_into_short_ones_is_read_as_one() -> None:
    found_by = ClassifierFilter("c", WordScorer({"very. Bad": 0.9}), limit=80, context=80, least=20)
    findings = await scan(found_by, "It is very. Bad. ", Context("output"))
    assert max(f.score for f in findings if f.category == "bad") == 0.9


QUIET = "It is good. It is bad. All is well. "


@pytest.mark.parametrize(
    ("least", "asked"),
    [
        (0.5, ["It is good.", " It is bad.", "It is good. It is bad.", " All is well."]),
        (
            0.0,
            [
                *("It is good.", " It is bad.", "It is good. It is bad."),
                *(" All is well.", "It is good. It is bad. All is well."),
            ],
        ),
    ],
)
async def test_a_sentence_about_which_nothing_is_done_is_read_once(
    least: float, asked: list[str]
) -> None:
    scorer = OnlyBad({"bad": 0.9})
    found_by = ClassifierFilter("c", scorer, limit=80, context=80, least=4)
    await scan(found_by, QUIET, Context("output", least=least))
    assert scorer.asked == asked


@given(
    st.lists(st.text("abcd", min_size=1, max_size=6), max_size=12),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 20),
)
def test_what_is_read_once_changes_no_verdict(
    words: list[str], quiet: int, least: int, above: int
) -> None:
    """At any threshold from `least` on a rule finds what it finds with two readings of all."""

    async def found(least: float) -> list[tuple[str, Span, bool]]:
        scorer = WordScorer({})
        made = ClassifierFilter("c", scorer, limit=12, context=20, least=4, quiet=quiet / 100)
        findings = await scan(made, text or ".", Context("output", least=least))
        return [(f.category, f.span, f.score >= at) for f in findings]

    text, at = "".join(f"{word}. " for word in words), min(1.0, (least + above) / 100)
    assert asyncio.run(found(least / 100)) == asyncio.run(found(0.0))


@pytest.mark.parametrize("nonsense", [nan, 1.5, -0.5])
@pytest.mark.parametrize("odd_one", ["It is bad.", "It is good. It is bad."])
async def test_no_reading_hides_a_score_that_is_none(nonsense: float, odd_one: str) -> None:
    class Odd(OnlyBad):
        def of(self, text: str) -> Mapping[str, float]:
            return {"bad": nonsense if text.strip() == odd_one else super().of(text)["bad"]}

    found_by = ClassifierFilter("c", Odd({"bad": 0.9}), limit=80, context=80, least=4)
    findings = await scan(found_by, "It is good. It is bad. ", Context("output", least=0.5))
    assert not all(0.0 <= f.score <= 1.0 for f in findings)
