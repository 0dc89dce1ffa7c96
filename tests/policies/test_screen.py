"""The stream screen: design §5, invariants 1 to 5, over any text and any way of cutting it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.classifier import ClassifierFilter
from filters.critique import CritiqueFilter
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import OVERFLOW, Context, Filter, Finding, Piece, Span
from policies.chain import Link
from policies.compose import Composer
from policies.errors import ScreenClosed
from policies.operators import TAG, Fixed, Hash, Mask, Operator
from policies.plan import Mode, Policy
from policies.rules import Rule, Rules
from policies.screen import Budget, StreamScreen
from policies.types import Action, Hit, OnError, Release, Verdict
from tests.support.filters import Misbehaving, PureJudge, WordScorer
from tests.support.profiles import invariant

ALPHABET = st.sampled_from(
    [
        *"abkh@. \n",
        "kill",
        "hit ",
        "a@b.c",
        "x@y",
        "@b.",
        "foo",
        "foo(",
        "bar",
        "secret ",
        "secret a@b.c",
        "é",
        "𝕏",
    ]
)
TEXTS = st.lists(ALPHABET, max_size=30).map("".join)

PATTERNS = {
    "email": r"[\w.]{1,20}@\w+(?:\.\w+)+",
    "foo": r"foo(?!\()",
    "foobar": r"foo.{0,3}bar",
    "secret": r"\bsecret \w+",
}


def filters() -> dict[str, Filter]:
    return {
        "re": RegexFilter.from_options("re", PATTERNS, Resources()),
        "words": ClassifierFilter("words", WordScorer(), limit=12, context=5),
        "doctor": CritiqueFilter("doctor", "Is it?", limit=9),
    }


def policy(
    rules: Sequence[Rule],
    mode: Mode = "enforce",
    others: Sequence[Filter] = (),
    on_error: OnError = "block",
) -> Policy:
    made = filters() | {f.name: f for f in others}
    # Pure filters have time: the properties leave time-outs apart, and a machine may stall.
    seconds = {f.name: 0.2 for f in others}
    return Policy(
        name="test",
        version="1",
        mode=mode,
        source="test.yaml",
        links={name: Link(f, seconds.get(name, 60), on_error) for name, f in made.items()},
        stages={"output": tuple(rules)},
    )


def rule(
    filter_: str,
    action: Action,
    *categories: str,
    at: float = 0.5,
    operator: Operator = TAG,
) -> Rule:
    name = f"{filter_}-{'-'.join(categories)}-{action.word}"
    return Rule(name, filter_, action, frozenset(categories) or None, at, operator=operator)


#: Their placeholders begin with a bracket, but for a mask's, which is as long as what it masks.
OPERATORS = st.sampled_from(
    [TAG, Mask(4), Mask(2), Mask(0), Hash("test", b"a key for tests only"), Fixed("[gone]")]
)


def numbered(rules: Sequence[Rule]) -> list[Rule]:
    return [replace(rule, id=f"{n}-{rule.id}") for n, rule in enumerate(rules)]


RULES = st.lists(
    st.one_of(
        st.builds(
            lambda c, a, o: rule("re", a, *c, operator=o),
            st.lists(st.sampled_from(sorted(PATTERNS)), min_size=1, max_size=2, unique=True),
            st.sampled_from([Action.ALLOW, Action.FLAG, Action.REDACT, Action.BLOCK]),
            OPERATORS,
        ),
        st.builds(
            lambda c, a, at, o: rule("words", a, c, at=at, operator=o),
            st.sampled_from(["bad", "odd"]),
            st.sampled_from([Action.FLAG, Action.REDACT, Action.BLOCK]),
            st.sampled_from([0.5, 0.7, 0.9]),
            OPERATORS,
        ),
        st.builds(
            lambda a, at, o: rule("doctor", a, "yes", at=at, operator=o),
            st.sampled_from([Action.FLAG, Action.REDACT, Action.BLOCK]),
            st.sampled_from([0.6, 0.9]),
            OPERATORS,
        ),
    ),
    min_size=1,
    max_size=4,
).map(numbered)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> tuple[str, list[int]]:
    text = draw(texts)
    if draw(st.booleans()):
        return text, list(range(1, len(text)))  # one character at a time
    return text, sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))


async def run(
    plan_of: Policy, text: str, cuts: Sequence[int] = (), preceding: str = ""
) -> tuple[list[Release], Verdict]:
    judge = PureJudge(text)
    context = Context("output", role="assistant", preceding=preceding, judge=judge)
    screen = StreamScreen(plan_of.plan("output"), context)
    releases: list[Release] = []
    edges = [0, *cuts, len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await screen.push(Piece(text[start:end]), final=number == len(edges) - 2)
        releases.append(step.release)
        if step.then == "stop":
            break
    verdict = await screen.verdict()
    await screen.aclose()
    assert screen.held == 0
    return releases, replace(verdict, timings={})


def placeholder(text: str, cut_: Span, verdict: Verdict, rules: Sequence[Rule]) -> str:
    """What stands for a cut: the operator of the first finding, bound by the least of all."""
    by_id = {rule.id: (n, rule) for n, rule in enumerate(rules)}
    found = [
        (hit.finding.span.start, *by_id[hit.rule], hit.finding.category)
        for hit in verdict.hits
        if hit.action is Action.REDACT
        and max(hit.finding.span.start, cut_.start) < min(hit.finding.span.end, cut_.end)
    ]
    _, _, first, category = min(found, key=lambda f: f[:2])
    keep = min(rule.operator.keep for _, _, rule, _ in found)
    return first.operator.replace(text[cut_.start : cut_.end], category, keep)


def check_releases(
    text: str, releases: Sequence[Release], verdict: Verdict, rules: Sequence[Rule]
) -> None:
    """Releases tile what left; all but their cuts is the original, letter by letter."""
    assert [r.start for r in releases] == [0, *(r.end for r in releases[:-1])]
    assert "".join(r.text for r in releases) == verdict.text
    for release in releases:
        rest, at = release.text, release.start
        for span in release.cuts:
            original = text[at : span.start]
            assert rest.startswith(original)
            rest = rest[len(original) :]
            expected = placeholder(text, span, verdict, rules)
            assert rest.startswith(expected)
            rest = rest[len(expected) :]
            at = span.end
        assert rest == text[at : release.end]


@invariant()
@given(cut(), RULES)
async def test_cutting_changes_nothing(case: tuple[str, list[int]], rules: list[Rule]) -> None:
    text, cuts = case
    loaded = policy(rules)
    whole, expected = await run(loaded, text)
    releases, verdict = await run(loaded, text, cuts)
    assert verdict == expected
    check_releases(text, whole, expected, rules)
    check_releases(text, releases, verdict, rules)


@invariant()
@given(cut(), RULES)
async def test_nothing_of_a_blocked_or_redacted_span_leaves(
    case: tuple[str, list[int]], rules: list[Rule]
) -> None:
    text, cuts = case
    releases, verdict = await run(policy(rules), text, cuts)
    left = {
        i
        for release in releases
        for i in range(release.start, release.end)
        if not any(span.start <= i < span.end for span in release.cuts)
    }
    for hit in verdict.hits:
        span = hit.finding.span
        if hit.action >= Action.REDACT:
            assert not left.intersection(range(span.start, span.end))
        if hit.action is Action.BLOCK:
            assert all(i < span.start for i in left)
    if verdict.action < Action.BLOCK:
        assert releases[-1].end == len(text)


def visible(text: str, releases: Sequence[Release]) -> set[int]:
    """Letters and digits that left, those that masks show included."""
    seen: set[int] = set()
    for release in releases:
        rest, at = release.text, release.start
        for span in release.cuts:
            seen.update(range(at, span.start))
            rest, at = rest[span.start - at :], span.end
            if rest.startswith("["):
                rest = rest[rest.index("]") + 1 :]
                continue
            seen.update(i for i in range(span.start, at) if rest[i - span.start] == text[i])
            rest = rest[at - span.start :]
        seen.update(range(at, release.end))
    return {i for i in seen if text[i].isalnum()}


@invariant()
@given(cut(), st.integers(0, 200), RULES)
async def test_slices_release_nothing_that_one_request_would_not(
    case: tuple[str, list[int]], at: int, rules: list[Rule]
) -> None:
    """Text that continues `preceding` is judged as if both had come in one piece."""
    text, cuts = case
    at = min(at, len(text))
    rules = [r for r in rules if r.filter != "doctor"]  # a judge reads its own stream only
    loaded = policy([*rules, rule("re", Action.REDACT, "email")])
    at_once, whole = await run(loaded, text)
    releases, verdict = await run(
        loaded, text[at:], [c - at for c in cuts if c > at], preceding=text[:at]
    )
    left = {
        i + at
        for release in releases
        for i in range(release.start, release.end)
        if not any(span.start <= i < span.end for span in release.cuts)
    }
    blocks = [h.finding.span for h in whole.hits if h.action is Action.BLOCK]
    if blocks and blocks[0].end <= at:
        return  # in one request nothing would have come after
    assert {i + at for i in visible(text[at:], releases)} <= visible(text, at_once)
    for hit in whole.hits:
        if hit.action >= Action.REDACT and hit.finding.span.end > at:
            assert not left.intersection(range(hit.finding.span.start, hit.finding.span.end))
    moved = [
        (h.finding.category, max(0, h.finding.span.start - at), h.finding.span.end - at)
        for h in whole.hits
        if h.finding.span.end > at and (h.finding.span.start >= at or h.action >= Action.REDACT)
    ]
    here = [(h.finding.category, h.finding.span.start, h.finding.span.end) for h in verdict.hits]
    assert set(moved) <= set(here)


@invariant()
@given(cut(), RULES)
async def test_monitor_never_changes_a_byte(case: tuple[str, list[int]], rules: list[Rule]) -> None:
    text, cuts = case
    reported: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    screen = StreamScreen(
        policy(rules, mode="monitor").plan("output"),
        Context("output", judge=PureJudge(text)),
        report=reported.set_result,
    )
    edges = [0, *cuts, len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await screen.push(Piece(text[start:end]), final=number == len(edges) - 2)
        assert step.release == Release(text[start:end], start, end)
    assert (await screen.verdict()).action is Action.ALLOW
    report = await reported
    _, enforced = await run(policy(rules), text, cuts)
    assert (report.action, report.text) == (enforced.action, enforced.text)
    assert report.rule == enforced.rule
    await screen.aclose()


@pytest.mark.parametrize(
    "what", ["raises", "hangs", "unsettles", "overreaches", "late", "nan", "stalls", "refuses"]
)
@pytest.mark.parametrize("on_error", ["block", "allow"])
async def test_a_broken_filter_closes_and_says_so(what: str, on_error: OnError) -> None:
    broken = Misbehaving(what)
    rules = [rule(what, Action.REDACT, "x"), rule("re", Action.REDACT, "email")]
    loaded = policy(rules, others=[broken], on_error=on_error)
    text = "good start, now a@b.c end"
    releases, verdict = await run(loaded, text, [6, 12])
    assert [f.filter for f in verdict.faults] == [what]
    assert "private" not in verdict.faults[0].reason
    if on_error == "allow":
        assert verdict.text == "good start, now [EMAIL] end"
    else:
        assert (verdict.action, verdict.rule) == (Action.BLOCK, "on_error")
        assert verdict.text == ("" if what == "refuses" else "good start, ")
    check_releases(text, releases, verdict, rules)


async def test_overlapping_redactions_merge_under_the_first_label() -> None:
    loaded = policy([rule("re", Action.REDACT, "secret"), rule("re", Action.REDACT, "email")])
    _, verdict = await run(loaded, "a secret me@b.c x", [9, 11])
    assert verdict.text == "a [SECRET] x"
    assert [h.rule for h in verdict.hits] == ["re-secret-redact", "re-email-redact"]


async def test_what_stands_before_a_block_was_released_and_nothing_after() -> None:
    loaded = policy([rule("re", Action.BLOCK, "foo"), rule("re", Action.REDACT, "email")])
    _, verdict = await run(loaded, "a@b.c and foo a@b.c", [3, 11])
    assert verdict.text == "[EMAIL] and "
    assert [h.finding.span for h in verdict.hits] == [Span(0, 5), Span(10, 13)]


async def test_text_waits_for_filters_that_act_and_for_no_other() -> None:
    acts = policy([rule("re", Action.REDACT, "email"), rule("words", Action.FLAG, "bad")])
    releases, verdict = await run(acts, "They kill. It is fine", [7])
    assert releases[0].text == "They ki"[: len("They ")]
    assert verdict.action is Action.FLAG


@given(cut(), st.sampled_from([Action.FLAG, Action.BLOCK]))
async def test_a_rule_that_signals_holds_nothing_back(
    case: tuple[str, list[int]], action: Action
) -> None:
    """Text goes on; what was found follows, and a block ends it late. `checked` never goes back."""
    text, cuts = case
    signal = replace(rule("re", action, "email"), signal=True)
    screen = StreamScreen(policy([signal]).plan("output"), Context("output"))
    edges = [0, *cuts, len(text)]
    hits: list[Hit] = []
    checked, stopped = 0, False
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await screen.push(Piece(text[start:end]), final=number == len(edges) - 2)
        assert step.release == Release(text[start:end], start, end)
        assert checked <= step.checked <= end
        checked = step.checked
        hits += step.signals
        stopped = step.then == "stop"
        if stopped:
            break
    verdict = await screen.verdict()
    _, held = await run(policy([rule("re", action, "email")]), text)
    assert verdict.hits == tuple(hits)
    if action is Action.BLOCK:
        assert stopped == (held.action is Action.BLOCK)
        assert [h.finding for h in hits] == [h.finding for h in held.hits]
        assert len(verdict.text) >= len(held.text)
    else:
        assert [h.finding for h in hits] == [h.finding for h in held.hits]
        assert verdict.text == text
    await screen.aclose()


async def test_held_text_is_bounded_over_all_screens() -> None:
    budget = Budget(20)
    plan = policy([rule("words", Action.BLOCK, "bad")]).plan("output")
    screens = [StreamScreen(plan, Context("output"), budget=budget) for _ in range(3)]
    steps = [await s.push(Piece("abababa")) for s in screens]
    assert [s.then for s in steps] == ["continue", "continue", "stop"]
    for screen in screens:
        await screen.aclose()
    assert budget.left == 20


async def test_a_closed_screen_takes_nothing() -> None:
    screen = StreamScreen(
        policy([rule("re", Action.BLOCK, "foo")]).plan("output"), Context("output")
    )
    await screen.push(Piece("foo"), final=True)
    with pytest.raises(ScreenClosed):
        await screen.push(Piece("more"))


async def test_a_filter_that_fails_behind_a_signal_ends_the_text() -> None:
    """Text does not wait for it; yet nothing that it was to read leaves for good."""
    broken = Misbehaving("raises")
    late = replace(rule("raises", Action.BLOCK), signal=True)
    _, verdict = await run(policy([late], others=[broken]), "now and then", [3, 7])
    assert verdict.action is Action.BLOCK
    assert [fault.filter for fault in verdict.faults] == ["raises"]
    _, verdict = await run(policy([late], others=[broken], on_error="allow"), "now and then", [3])
    assert verdict.action is Action.ALLOW


async def test_a_full_budget_is_a_fault_and_no_word_on_the_text() -> None:
    plan = policy([rule("re", Action.BLOCK, "foo")]).plan("output")
    screen = StreamScreen(plan, Context("output"), budget=Budget(3))
    step = await screen.push(Piece("harmless"), final=True)
    verdict = await screen.verdict()
    await screen.aclose()
    assert (step.then, screen.failed) == ("stop", True)
    assert [fault.filter for fault in verdict.faults] == ["hold"]


async def test_a_cancelled_error_of_a_filter_is_its_fault() -> None:
    cancelled = Misbehaving("cancels")
    made = policy([rule("cancels", Action.BLOCK)], others=[cancelled])
    _, verdict = await asyncio.wait_for(run(made, "now"), 30)
    assert [fault.reason.split(" at ")[0] for fault in verdict.faults] == ["CancelledError"]


async def test_whoever_is_cancelled_from_without_is_cancelled() -> None:
    made = policy([rule("hangs", Action.BLOCK)], others=[Misbehaving("hangs")])
    task = asyncio.create_task(run(made, "now"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("named", ["system", "developer"])
def test_system_and_developer_are_one_role(named: str) -> None:
    made = policy([replace(rule("re", Action.BLOCK, "foo"), roles=frozenset({named}))])
    assert made.plan("output", role="system").acting
    assert made.plan("output", role="developer").acting
    assert not made.plan("output", role="user").acting


@pytest.mark.parametrize("cut", range(8, 18))
async def test_an_exception_is_one_for_the_whole_of_what_is_found(cut: int) -> None:
    """Also where its beginning is out already."""
    text = "x secret abcsecret y"
    spared = replace(rule("re", Action.REDACT, "secret"), but=("*bcsecret", "cs*"))
    bound = replace(rule("re", Action.REDACT, "secret"), but=("ecret abcsecret", "abcsecret"))
    for one, shown in ((spared, text[cut:]), (bound, "[SECRET] y")):
        releases, _ = await run(policy([one]), text[cut:], preceding=text[:cut])
        assert "".join(release.text for release in releases) == shown


@pytest.mark.parametrize(("overflow", "blocked"), [(Action.BLOCK, True), (Action.ALLOW, False)])
def test_what_is_longer_than_its_filter_follows_goes_on_behind_a_cut(
    overflow: Action, blocked: bool
) -> None:
    composer = Composer(Rules([rule("re", Action.REDACT)], overflow), "-----BEGIN KEY and much")
    composer.add(Finding("re", OVERFLOW, Span(0, 20), 1.0))
    composer.grow(" more")
    released = composer.advance(28, final=True).text
    assert (composer.blocked, released) == (blocked, "" if blocked else " more")
