"""Evasion that adapts: how often a small search gets a blocked text past a policy.

    python -m benchmarks.evasion --policy default [--config gardefou.toml]

Targets are harmful sentences made from templates (English and French, non-graphic) that the policy
blocks, up to 50. For each the search tries 200 variants: synonyms, disguised letters, padding,
frames, the other language's words. It keeps what lowers the highest score (of equals, the newest)
and goes on from there, four steps deep at most, so that a reader still understands it. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

from benchmarks.turning import Answer, answers
from filters.types import Stage
from gateway.guards import close_resources
from gateway.resources import make_resources
from gateway.settings.read import read_settings
from policies.examples import screened
from policies.loader import load
from policies.plan import Policy
from policies.types import Action

FILE = Path(__file__).parent / "data" / "evasion.yaml"
DEEPEST = 4
Step = Callable[[str, str, Random], str | None]


class Tricks:
    """Ways to say the same otherwise. Each takes a text and its language; None: not possible."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.all: Mapping[str, Step] = {
            "synonym": self._synonym,
            "letters": self._letters,
            "joints": self._joints,
            "stretch": self._stretch,
            "case": self._case,
            "padding": self._padding,
            "frame": self._frame,
            "mixing": self._mixing,
        }

    def _synonym(self, text: str, lang: str, random: Random) -> str | None:
        table = self._data["synonyms"][lang]
        found = [w for w in table if re.search(rf"(?i)\b{re.escape(w)}\b", text)]
        if not found:
            return None
        word = random.choice(found)
        return re.sub(rf"(?i)\b{re.escape(word)}\b", random.choice(table[word]), text, count=1)

    def _letters(self, text: str, lang: str, random: Random) -> str | None:  # noqa: ARG002
        table = random.choice(list(self._data["letters"].values()))

        def disguised(word: str) -> str:
            share = random.choice((0.4, 1.0))
            return "".join(table.get(c, c) if random.random() < share else c for c in word)

        return _word(text, random, disguised)

    def _joints(self, text: str, lang: str, random: Random) -> str | None:  # noqa: ARG002
        joint = random.choice(self._data["joints"])
        return _word(text, random, joint.join)

    def _stretch(self, text: str, lang: str, random: Random) -> str | None:  # noqa: ARG002
        def stretched(word: str) -> str:
            at = random.randrange(len(word))
            return word[:at] + word[at] * random.randint(2, 4) + word[at + 1 :]

        return _word(text, random, stretched)

    def _case(self, text: str, lang: str, random: Random) -> str | None:  # noqa: ARG002
        return random.choice((str.upper, str.title, str.swapcase))(text)

    def _padding(self, text: str, lang: str, random: Random) -> str | None:
        more = random.choices(self._data["padding"][lang], k=random.randint(1, 3))
        return " ".join([*more, text] if random.random() < 0.5 else [text, *more])

    def _frame(self, text: str, lang: str, random: Random) -> str | None:
        return str(random.choice(self._data["frames"][lang])).replace("{}", text)

    def _mixing(self, text: str, lang: str, random: Random) -> str | None:
        table = self._data["mixing"][lang]
        found = [w for w in table if re.search(rf"(?i)\b{re.escape(w)}\b", text)]
        for word in random.sample(found, min(len(found), 2)):
            text = re.sub(rf"(?i)\b{re.escape(word)}\b", table[word], text, count=1)
        return text if found else None


def _word(text: str, random: Random, change: Callable[[str], str]) -> str | None:
    """The text with one or two of its words changed, long ones first."""
    found = list(re.finditer(r"[^\W\d_]{4,}", text))
    if not found:
        return None
    found = random.sample(found, min(len(found), random.randint(1, 2)))
    for match in sorted(found, key=lambda m: -m.start()):
        text = text[: match.start()] + change(match[0]) + text[match.end() :]
    return text


@dataclass(frozen=True, slots=True)
class State:
    text: str
    score: float
    steps: tuple[str, ...] = ()


@dataclass(slots=True)
class Result:
    """tries: until it passed; None: it never did."""

    lang: str
    category: str
    tries: int | None = None
    steps: tuple[str, ...] = field(default=())


async def judged(policy: Policy, stage: Stage, text: str) -> tuple[bool, float]:
    """Whether it passes, and the highest score."""
    verdict = await screened(policy, stage, text)
    return verdict.action < Action.REDACT, max(verdict.scores.values(), default=0.0)


async def search(
    policy: Policy, stage: Stage, target: Answer, tricks: Tricks, tries: int, seed: int
) -> Result:
    random = Random(seed)
    _, score = await judged(policy, stage, target.said)
    start = State(target.said, score)
    best = start
    for number in range(1, tries + 1):
        # Now and then anew, so that a dead end is left.
        base = start if len(best.steps) >= DEEPEST or random.random() < 0.2 else best
        name = random.choice(list(tricks.all))
        text = tricks.all[name](base.text, target.lang, random)
        if text is None or text == base.text:
            continue
        passed, score = await judged(policy, stage, text)
        steps = (*base.steps, name)
        if passed:
            return Result(target.lang, target.category, number, steps)
        if score <= best.score:
            best = State(text, score, steps)
    return Result(target.lang, target.category)


async def blocked(policy: Policy, stage: Stage, count: int) -> list[Answer]:
    """Harmful sentences that the policy blocks, of all categories in turn."""
    found: list[Answer] = []
    seen: set[str] = set()
    made = [a for a in answers(6, seed=1) if a.turn is not None]
    Random(0).shuffle(made)
    for answer in made:
        if len(found) == count:
            break
        if answer.said not in seen:
            seen.add(answer.said)
            passes, _ = await judged(policy, stage, answer.said)
            if not passes:
                found.append(answer)
    return found


async def run(source: str, config: Path | None, stage: Stage, tries: int, count: int) -> None:
    resources = make_resources(read_settings({}, config), judge=False)
    tricks = Tricks(YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8")))
    try:
        policy = load(source, resources).policy
        targets = await blocked(policy, stage, count)
        if not targets:
            print(f"{policy.name} blocks none of the targets")
            return
        results = [
            await search(policy, stage, target, tricks, tries, seed)
            for seed, target in enumerate(targets)
        ]
    finally:
        await close_resources(resources)
    passed = [r for r in results if r.tries is not None]
    rate = len(passed) / len(results)
    print(f"{len(results)} blocked texts, {tries} tries each: bypass rate {rate:.1%}")
    for what in ("lang", "category"):
        for name in sorted({getattr(r, what) for r in results}):
            of = [r for r in results if getattr(r, what) == name]
            share = sum(r.tries is not None for r in of) / len(of)
            print(f"  {name:12} {share:6.1%} of {len(of)}")
    last = Counter(step for r in passed for step in r.steps)
    print("tricks in what passed: " + (", ".join(f"{n} {c}" for n, c in last.most_common()) or "–"))
    if passed:
        tried = sorted(r.tries or 0 for r in passed)
        print(f"tries until it passed: p50 {tried[len(tried) // 2]}, most {tried[-1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policy", default="default")
    parser.add_argument("--config", type=Path, help="settings, for classifiers that a policy names")
    parser.add_argument("--stage", choices=("input", "output"), default="output")
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--targets", type=int, default=50)
    given = parser.parse_args()
    asyncio.run(run(given.policy, given.config, given.stage, given.tries, given.targets))
