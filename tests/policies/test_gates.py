"""Filters that gate others: who is asked what, and that it does not depend on how text arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.classifier import ClassifierFilter
from filters.critique import CritiqueFilter
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Filter, Finding, Piece, Span
from policies.chain import Link
from policies.errors import PolicyInvalid
from policies.gates import Gate
from policies.loader import parse
from policies.plan import Policy
from policies.rules import Rule
from policies.screen import StreamScreen
from policies.types import Action, OnError, Release, Verdict
from tests.support.filters import Misbehaving, PureJudge, WordScorer
from tests.support.profiles import invariant

WORDS = st.sampled_from([*"abk. \n", "kill", "hit ", "foo", "foo bar", "ok", "é"])
TEXTS = st.lists(WORDS, max_size=25).map("".join)
GATES = st.sampled_from(
    [
        {"doctor": Gate("words", frozenset({"bad"}))},
        {"doctor": Gate("words", frozenset({"odd"}), 0.3, 0.8)},
        {"doctor": Gate("re")},
        {"doctor": Gate("re", frozenset({"foo"})), "words": Gate("re", frozenset({"k"}))},
        {"doctor": Gate("words", None, 0.5, 0.95), "words": Gate("re", frozenset({"k", "foo"}))},
        {"doctor": Gate("words"), "re": Gate("doctor", None, 0.2, 0.9)},
    ]
)
RULES = st.lists(
    st.sampled_from(
        [
            Rule("d-redact", "doctor", Action.REDACT, at=0.7),
            Rule("d-block", "doctor", Action.BLOCK, at=0.9),
            Rule("w-block", "words", Action.BLOCK, frozenset({"bad"}), 0.8),
            Rule("w-redact", "words", Action.REDACT, frozenset({"odd"}), 0.9),
            Rule("r-redact", "re", Action.REDACT, frozenset({"foo"})),
            Rule("d-flag", "doctor", Action.FLAG, at=0.1),
        ]
    ),
    min_size=1,
    unique_by=lambda rule: rule.id,
)


def filters() -> dict[str, Filter]:
    return {
        "re": RegexFilter.from_options("re", {"foo": r"foo(?! )\w?", "k": "k"}, Resources()),
        "words": ClassifierFilter("words", WordScorer(), limit=12, context=5),
        "doctor": CritiqueFilter("doctor", "Is it?", limit=9),
    }


def policy(
    rules: Sequence[Rule], gates: Mapping[str, Gate], *others: Filter, on_error: OnError = "block"
) -> Policy:
    made = filters() | {f.name: f for f in others}
    links = {n: Link(f, 60, on_error, gates.get(n)) for n, f in made.items()}
    return Policy("test", "1", "enforce", "-", links, {"output": tuple(rules)})


async def run(
    loaded: Policy, text: str, cuts: Sequence[int] = ()
) -> tuple[list[Release], Verdict, PureJudge]:
    judge = PureJudge(text)
    screen = StreamScreen(loaded.plan("output"), Context("output", judge=judge))
    releases = []
    edges = [0, *cuts, len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await screen.push(Piece(text[start:end]), final=number == len(edges) - 2)
        releases.append(step.release)
        if step.then == "stop":
            break
    verdict = await screen.verdict()
    await screen.aclose()
    return releases, verdict, judge


@invariant()
@given(TEXTS, st.lists(st.integers(0, 99), max_size=8), GATES, RULES)
async def test_cutting_changes_nothing(
    text: str, cuts: list[int], gates: dict[str, Gate], rules: list[Rule]
) -> None:
    loaded = policy(rules, gates)
    _, whole, _ = await run(loaded, text)
    _, cut, _ = await run(loaded, text, sorted(min(c, len(text)) for c in cuts))
    assert (cut.text, cut.action, cut.rule) == (whole.text, whole.action, whole.rule)
    assert (cut.hits, cut.scores, cut.faults) == (whole.hits, whole.scores, whole.faults)


@invariant()
@given(TEXTS, st.lists(st.integers(0, 99), max_size=4), GATES)
async def test_only_what_the_gate_is_open_for_is_asked_about(
    text: str, cuts: list[int], gates: dict[str, Gate]
) -> None:
    every = [Rule(name, name, Action.REDACT, at=0.0) for name in ("re", "words", "doctor")]
    expected: dict[str, list[Finding]] = {}
    free = policy(every, {})
    for name in ("re", "words", "doctor", "re", "words", "doctor"):  # until gates of gates are in
        scan = free.links[name].filter.open(Context("output", judge=PureJudge(text)))
        found = list((await scan.feed(Piece(text), final=True)).findings)
        if (gate := gates.get(name)) is not None:
            opened = [f.span for f in expected.get(gate.name, []) if gate.opens(f)]
            found = [_cut(f, opened) for f in found if _touching(f.span, opened)]
        expected[name] = found
    _, verdict, judge = await run(
        policy(every, gates), text, sorted(min(c, len(text)) for c in cuts)
    )
    wanted = sorted(f for fs in expected.values() for f in map(_key, fs))
    assert sorted(map(_key, verdict.findings)) == wanted
    assert sorted(judge.asked) == sorted(f.span.end for f in expected["doctor"])


def _touching(span: Span, spots: Sequence[Span]) -> list[Span]:
    return [s for s in spots if s.start < span.end and s.end > span.start]


def _cut(finding: Finding, spots: Sequence[Span]) -> Finding:
    first = min(s.start for s in _touching(finding.span, spots))
    span = Span(max(first, finding.span.start), finding.span.end)
    return Finding(finding.filter, finding.category, span, finding.score)


def _key(finding: Finding) -> tuple[str, str, int, int, float]:
    span = finding.span
    return finding.filter, finding.category, span.start, span.end, finding.score


async def test_text_waits_for_the_dear_filter_only_where_the_gate_is_open() -> None:
    loaded = policy(
        [Rule("d", "doctor", Action.REDACT, at=0.0)], {"doctor": Gate("re", frozenset({"foo"}))}
    )
    releases, verdict, judge = await run(loaded, "all of it ok; foo! and so on", [13, 16, 18])
    assert [r.text for r in releases] == ["all of it ok;", " ", "", "[YES] and so on"]
    assert len(judge.asked) == 1
    assert verdict.hits[0].finding.span == Span(14, 18)


@pytest.mark.parametrize("on_error", ["allow", "block"])
async def test_a_gate_that_fails_is_open_from_there_on(on_error: OnError) -> None:
    broken = Misbehaving("raises")
    rules = [Rule("d", "doctor", Action.FLAG, at=0.0), Rule("x", "raises", Action.REDACT)]
    rules.append(Rule("e", "doctor", Action.REDACT, at=1.0))
    loaded = policy(rules, {"doctor": Gate("raises")}, broken, on_error=on_error)
    _, verdict, judge = await run(loaded, "one two. now it. is three.", [9])
    assert [f.filter for f in verdict.faults[:1]] == ["raises"]
    if on_error == "block":
        assert verdict.action is Action.BLOCK
        assert verdict.text == "one two. "
    else:
        assert 8 not in judge.asked  # before the fault nothing opened the gate
        assert {f.span.start for f in verdict.findings} >= {9}
        assert verdict.text == "one two. now it. is three."


GATED = """\
policy: gated
filters:
  cheap: {regex: {foo: foo}}
  dear: {regex: {bar: bar}, only: {cheap: foo, from: 0.3, to: 0.8}}
output:
  - {id: x, when: {dear: bar}, do: block}
"""


def test_a_policy_names_gates() -> None:
    loaded = parse(GATED, "p.yaml").policy
    assert loaded.links["dear"].gate == Gate("cheap", frozenset({"foo"}), 0.3, 0.8)
    assert [link.filter.name for link in loaded.plan("output").acting] == ["cheap", "dear"]
    anything = parse(GATED.replace("{cheap: foo, from: 0.3, to: 0.8}", "{cheap: any}"), "p.yaml")
    assert anything.policy.links["dear"].gate == Gate("cheap")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("cheap: foo,", "chep: foo,"), "p.yaml:4:36: no filter 'chep'; one of cheap"),
        (("cheap: foo,", "cheap: fo,"), "p.yaml:4:36: cheap has no category 'fo'"),
        (("cheap: foo,", "cheap: 3,"), "p.yaml:4:36: `cheap: …` takes a category"),
        (("cheap: foo,", "dear: bar,"), "p.yaml:4:29: filters gate each other: dear, dear"),
        (("cheap: foo,", "cheap: foo, dear: x,"), "p.yaml:4:29: one filter gates; found"),
        (("to: 0.8", "to: 8"), "p.yaml:4:59: `to` is a score from 0 to 1"),
        (("to: 0.8", "to: true"), "p.yaml:4:59: `to` is a score from 0 to 1"),
        (("from: 0.3", "from: 0.9"), "p.yaml:4:48: `from` is over `to`"),
        (("{cheap: foo, from: 0.3, to: 0.8}", "cheap"), "p.yaml:4:29: expected {filter"),
        (
            ("{foo: foo}}", "{foo: foo}, only: {dear: any}}"),
            "p.yaml:3:30: filters gate each other: cheap, dear, cheap",
        ),
    ],
)
def test_gates_that_cannot_be_are_refused(change: tuple[str, str], expected: str) -> None:
    assert change[0] in GATED
    with pytest.raises(PolicyInvalid) as caught:
        parse(GATED.replace(*change, 1), "p.yaml")
    assert str(caught.value.problems[0]).startswith(expected)


def test_a_filter_alone_is_not_proposed_as_its_own_gate() -> None:
    alone = GATED.replace("  cheap: {regex: {foo: foo}}\n", "")
    with pytest.raises(PolicyInvalid) as caught:
        parse(alone, "p.yaml")
    assert str(caught.value) == (
        "p.yaml:3:36: no filter 'cheap', and no other that could gate this one"
    )


def test_a_filter_is_told_the_lowest_score_that_anything_is_done_about() -> None:
    gates = {"doctor": Gate("words", low=0.3), "words": Gate("re", low=0.2)}
    rules = [
        Rule("a", "doctor", Action.BLOCK, at=0.7),
        Rule("b", "doctor", Action.REDACT, at=0.6),
        Rule("c", "words", Action.BLOCK, at=0.4),
        Rule("d", "words", Action.FLAG, at=0.1),  # of another chain: nothing waits for it
    ]
    plan = policy(rules, gates).plan("output")
    assert {link.filter.name: link.least for link in plan.acting} == {
        "re": 0.2,
        "words": 0.3,
        "doctor": 0.6,
    }
    assert {link.filter.name: link.least for link in plan.watching} == {"re": 0.2, "words": 0.1}
