"""Runs the examples beside a policy's rules: a rule that is not tested is not a rule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from filters.types import Context, Judge, Piece, Stage
from policies.loader import Loaded
from policies.plan import Policy
from policies.schema import RuleSpec
from policies.screen import StreamScreen
from policies.types import Verdict

#: The judge of a text at a stage.
JudgeOf = Callable[[Stage, str], Judge]

#: Stages by the names of their rules in a policy.
STAGES: dict[str, Stage] = {"input": "input", "output": "output", "tools": "tool_arguments"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one example went. `problem`: `file:line:column: …` where it did not hold, else None."""

    rule: str
    kind: str
    text: str
    problem: str | None = None
    skipped: str | None = None


async def run_examples(
    loaded: Loaded, *, cuts: int = 8, seed: int = 0, judge_of: JudgeOf | None = None
) -> AsyncIterator[Outcome]:
    """Run every rule's examples, each with its rule alone: whole, and cut at random `cuts` times.

    Rules without examples are outcomes with a problem. judge_of: the judge of a text at a stage;
    without, rules that ask one are skipped.
    """
    random = Random(seed)
    for part in ("input", "output", "tools"):
        for number, rule in enumerate(getattr(loaded.spec, part)):
            path = (part, number)
            hits = rule.examples.hit
            if not hits or not rule.examples.pass_:
                missing = "hit" if not hits else "pass"
                where = str(
                    loaded.document.problem(path, f"`{rule.id}` has no `{missing}` examples")
                )
                yield Outcome(rule.id, missing, "", where)
            made = loaded.policy.links[rule.when.filter].filter
            if getattr(made, "needs_signals", False):
                yield Outcome(rule.id, "hit", "", skipped="needs a model that writes")
                continue
            judges = getattr(made, "needs_judge", False) and judge_of is None
            if judges or getattr(made, "needs_engine", False):
                yield Outcome(rule.id, "hit", "", skipped="needs a model to judge")
                continue
            for kind, texts in (("hit", hits), ("pass", rule.examples.pass_)):
                for n, text in enumerate(texts):
                    example = _Example(loaded.policy, STAGES[part], rule, kind, text, judge_of)
                    wrong = await _wrong(example, cuts, random)
                    key = text if isinstance(texts, dict) else n
                    place = (*path, "examples", kind, key)
                    problem = str(loaded.document.problem(place, wrong)) if wrong else None
                    yield Outcome(rule.id, kind, text, problem)


@dataclass(frozen=True, slots=True)
class _Example:
    policy: Policy
    stage: Stage
    rule: RuleSpec
    kind: str
    text: str
    judge_of: JudgeOf | None


async def _wrong(example: _Example, cuts: int, random: Random) -> str | None:
    """What is wrong with one example, or None."""
    policy, stage, text = example.policy, example.stage, example.text
    rule, kind = example.rule, example.kind
    judge = example.judge_of(stage, text) if example.judge_of else None
    whole = await screened(policy, stage, text, only=rule.id, judge=judge)
    did_hit = any(hit.rule == rule.id for hit in whole.hits)
    if whole.faults:
        return f"`{whole.faults[0].filter}` failed: {whole.faults[0].reason}"
    if did_hit != (kind == "hit"):
        found = ", ".join(f"{c} {s:.2f}" for c, s in whole.scores.items()) or "nothing"
        verb = "does not hit" if kind == "hit" else "hits"
        return f"`{rule.id}` {verb} {text!r} (found: {found})"
    if isinstance(rule.examples.hit, dict) and kind == "hit":
        expected = rule.examples.hit[text]
        if whole.text != expected:
            return f"`{rule.id}` releases {whole.text!r}, not {expected!r}"
    for _ in range(cuts):
        places = sorted(random.choices(range(len(text) + 1), k=random.randint(1, 8)))
        cut = await screened(policy, stage, text, places, only=rule.id, judge=judge)
        if (cut.action, cut.text, cut.hits) != (whole.action, whole.text, whole.hits):
            return f"`{rule.id}` says otherwise of {text!r} when it comes cut at {places}"
    return None


async def screened(
    policy: Policy,
    stage: Stage,
    text: str,
    cuts: Sequence[int] = (),
    *,
    only: str | None = None,
    judge: Judge | None = None,
) -> Verdict:
    """The verdict on one text, in pieces that end at `cuts`, as if the policy were in force."""
    plan = policy.enforced().plan(stage, only=only)
    screen = StreamScreen(plan, Context(stage, judge=judge))
    edges = [0, *cuts, len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        step = await screen.push(Piece(text[start:end]), final=number == len(edges) - 2)
        if step.then != "continue":
            break  # no engine is at hand to write it anew
    verdict = await screen.verdict()
    await screen.aclose()
    return verdict
