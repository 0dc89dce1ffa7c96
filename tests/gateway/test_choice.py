"""Design §5, invariants 1 to 3, over all that a choice sends: text, log probabilities, n = 2."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from filters.classifier import ClassifierFilter
from filters.critique import CritiqueFilter
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Filter, Stage
from gateway.choice import Choice, Event
from gateway.logprobs import Alternatives, HeldLogprobs
from model_runner.script import replay
from model_runner.scripted import ScriptedRunner
from model_runner.types import (
    CONTENT,
    Alternative,
    Channel,
    Delta,
    GenerateRequest,
    Message,
    Sampling,
    TokenLogprob,
)
from policies.chain import Link
from policies.plan import Policy
from policies.rules import Rule
from policies.screen import StreamScreen
from policies.types import Action, Release, Verdict
from tests.support.filters import PureJudge, WordScorer
from tests.support.profiles import invariant

PATTERNS = {"email": r"[\w.]{1,20}@\w+(?:\.\w+)+", "foo": r"foo(?!\()"}
WORDS = [*"abk. \n", "kill", "a@b.c", "x@", "@b.", "foo", "foo(", "é", "𝕏"]
TOKENS = st.lists(st.sampled_from(WORDS), max_size=20)
CALL = Channel("tool_call", 0)

RULES = st.lists(
    st.sampled_from(
        [
            Rule("email", "re", Action.REDACT, frozenset({"email"})),
            Rule("foo", "re", Action.BLOCK, frozenset({"foo"})),
            Rule("bad", "words", Action.BLOCK, frozenset({"bad"}), 0.7),
            Rule("odd", "words", Action.REDACT, frozenset({"odd"}), 0.8),
            Rule("doctor", "doctor", Action.BLOCK, frozenset({"yes"}), 0.9),
        ]
    ),
    min_size=1,
    unique_by=lambda rule: rule.id,
)


def policy(rules: Sequence[Rule]) -> Policy:
    filters: list[Filter] = [
        RegexFilter.from_options("re", PATTERNS, Resources()),
        ClassifierFilter("words", WordScorer(), limit=12, context=5),
        CritiqueFilter("doctor", "Is it?", limit=9),
    ]
    plain = tuple(r for r in rules if r.filter != "doctor")
    return Policy(
        "test",
        "1",
        "enforce",
        "-",
        {f.name: Link(f) for f in filters},
        {"output": tuple(rules), "tool_arguments": plain},
    )


@dataclass
class Sent:
    """What one choice sent."""

    text: str = ""
    tokens: str = ""
    calls: list[str] = field(default_factory=list)
    finish: str | None = None
    verdicts: list[tuple[Stage, Verdict]] = field(default_factory=list)


def script(tokens: Sequence[str], per_delta: int, call: str = "") -> list[Delta]:
    """Deltas of `per_delta` tokens each, with their log probabilities; then one tool call."""
    deltas, at = [], 0
    for start in range(0, len(tokens), per_delta):
        group = tokens[start : start + per_delta]
        ends = []
        for token in group:
            at += len(token)
            ends.append(at)
        logprobs = tuple(TokenLogprob(t, -0.1, t.encode()) for t in group)
        deltas.append(Delta(text="".join(group), token_ends=tuple(ends), logprobs=logprobs))
    if call:
        deltas += [Delta(channel=CALL, text=call[i : i + 2]) for i in range(0, len(call), 2)]
    return deltas


async def send(loaded: Policy, choices: Sequence[Sequence[Delta]]) -> list[Sent]:
    """Run the choices side by side, as an exchange does."""
    runner = ScriptedRunner(replay(*choices))
    messages = (Message("user", "?"),)
    request = GenerateRequest(messages=messages, sampling=Sampling(n=len(choices), logprobs=0))
    generations = await runner.open(request)

    def open_screen(stage: Stage, context: Context) -> StreamScreen:
        return StreamScreen(loaded.plan(stage), context)

    async def one(index: int) -> Sent:
        said = "".join(d.text for d in choices[index] if d.channel == CONTENT)
        context = Context("output", "assistant", judge=PureJudge(said))
        choice = Choice(index, generations[index], open_screen, context)
        sent = Sent()
        async for event in choice.events():
            take(sent, event)
        await choice.judge()
        sent.verdicts = [(s, _timeless(v)) for s, v in choice.verdicts]
        return sent

    return list(await asyncio.gather(*(one(i) for i in range(len(choices)))))


def take(sent: Sent, event: Event) -> None:
    if event.channel == CALL:
        sent.calls.append(event.text)
    else:
        sent.text += event.text
        sent.tokens += "".join(t.text for t in event.logprobs)
    sent.finish = event.finish_reason


def _timeless(verdict: Verdict) -> Verdict:
    return Verdict(
        verdict.action,
        verdict.text,
        verdict.hits,
        verdict.scores,
        verdict.rule,
        verdict.policy_version,
        verdict.faults,
    )


@invariant()
@given(TOKENS, TOKENS, st.integers(1, 5), st.integers(1, 5), RULES, TOKENS.map("".join))
async def test_cutting_and_company_change_nothing(
    one: list[str], two: list[str], per_one: int, per_two: int, rules: list[Rule], call: str
) -> None:
    loaded = policy(sorted(rules, key=lambda r: r.id))
    [whole] = await send(loaded, [script(["".join(one)], 1, call) if one else script([], 1, call)])
    pair = await send(loaded, [script(one, per_one, call), script(two, per_two)])
    alone = await send(loaded, [script(two, 1)])
    assert (pair[0].text, pair[0].calls, pair[0].finish) == (whole.text, whole.calls, whole.finish)
    assert pair[0].verdicts[:1] == whole.verdicts[:1] or not one
    assert pair[1].text == alone[0].text
    assert pair[1].verdicts == alone[0].verdicts


@invariant()
@given(TOKENS, st.integers(1, 5), RULES, TOKENS.map("".join))
async def test_nothing_unvouched_leaves_by_any_way(
    tokens: list[str], per_delta: int, rules: list[Rule], call: str
) -> None:
    loaded = policy(sorted(rules, key=lambda r: r.id))
    [sent] = await send(loaded, [script(tokens, per_delta, call)])
    text = "".join(tokens)
    blocked = any(v.action is Action.BLOCK for _, v in sent.verdicts)
    assert (sent.finish == "content_filter") == blocked
    if any(v.action is Action.BLOCK for stage, v in sent.verdicts if stage == "tool_arguments"):
        assert sent.calls == []
    for stage, verdict in sent.verdicts:
        if stage != "output":
            continue
        assert verdict.text == sent.text
        kept = list(text)
        for hit in verdict.hits:
            if hit.action >= Action.REDACT:
                end = len(text) if hit.action is Action.BLOCK else hit.finding.span.end
                kept[hit.finding.span.start : end] = [""] * (end - hit.finding.span.start)
        # Log probabilities are a subsequence of the tokens whose every character was kept.
        at, whole_tokens = 0, ""
        for token in tokens:
            if "".join(kept[at : at + len(token)]) == token:
                whole_tokens += token
            at += len(token)
        rest = iter(whole_tokens)
        assert all(character in rest for character in sent.tokens)
        if not verdict.hits:
            assert text.startswith(sent.tokens)
            assert sent.tokens == text or blocked  # a blocked call leaves what is held where it is


def test_a_token_that_says_what_no_text_says_stays() -> None:
    """An engine's fault, or an end of its own such as `</s>`."""
    held = HeldLogprobs()
    tokens = tuple(
        TokenLogprob(t, -1.0, t.encode()) for t in ("Well", " hidden", "", "</s>", "said")
    )
    held.add(Delta(text="Well said", logprobs=tokens, token_ends=(4, 4, 4, 5, 9)))
    taken = [token.text for token, _ in held.take(Release("Well said", 0, 9))]
    assert taken == ["Well", "", "said"]


async def test_alternatives_are_read_by_patterns_and_lists_alone() -> None:
    words = WordScorer()
    terms = RegexFilter.from_options("re", {"foo": {"terms": ["foo"]}}, Resources())
    made: list[Filter] = [terms, ClassifierFilter("words", words)]
    rules = (
        Rule("foo", "re", Action.BLOCK, frozenset({"foo"})),
        Rule("bad", "words", Action.BLOCK, frozenset({"bad"}), 0.7),
    )
    links = {one.name: Link(one) for one in made}
    loaded = Policy("p", "1", "enforce", "-", links, {"output": rules})
    other = replace(loaded, version="2", stages={"output": rules[1:]})
    known = Alternatives(limit=3)

    async def shown(policy: Policy, token: str, *others: str) -> list[str]:
        top = tuple(Alternative(t, -1.0, t.encode()) for t in (token, *others))
        told = TokenLogprob(token, -1.0, token.encode(), top)
        return [one.text for one in (await known.shown(policy.plan("output").at_once(), told)).top]

    for _ in range(2):
        assert await shown(loaded, " a", " foo", " kill", "fo") == [" a", " kill", "fo"]
        assert await shown(loaded, " foo", "Foo", "o") == [" foo", "o"]
        assert await shown(other, " a", " foo") == [" a", " foo"]
        assert await shown(replace(loaded, mode="monitor", version="3"), " a", " foo")
    assert words.asked == []


def test_parts_of_a_code_point_leave_together() -> None:
    held = HeldLogprobs()
    tokens = tuple(TokenLogprob(t, -1.0, b) for t, b in [("\ufffd", b"\xc3"), ("\ufffd", b"\xa9")])
    held.add(Delta(text="", logprobs=tokens[:1], token_ends=(0,)))
    assert held.take(Release("", 0, 0)) == []
    held.add(Delta(text="é", logprobs=tokens[1:], token_ends=(1,)))
    assert held.take(Release("é", 0, 1)) == [(token, 0) for token in tokens]
