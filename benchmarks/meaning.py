"""How a policy stops answers whose meaning turns harmful midway. Nothing is asserted.

    python -m benchmarks.meaning --policy default [--config gardefou.toml]

Answers are made from templates, in English and French; each has a harmless twin of the same words.
They stream in pieces of four characters. Printed: the share that is stopped within two sentences of
the turn, false positives among twins, and characters held back after each piece.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.turning import Answer, answers
from filters.types import Context, Piece
from gateway.guards import close_resources
from gateway.resources import make_resources
from gateway.settings.read import read_settings
from policies.loader import load
from policies.plan import Policy
from policies.screen import StreamScreen

CUT = 4


async def streamed(policy: Policy, answer: Answer) -> tuple[int | None, list[int]]:
    """Characters that were out when it was stopped (None: it was not), and those held each time."""
    screen = StreamScreen(policy.plan("output"), Context("output", "assistant"))
    held: list[int] = []
    try:
        for at in range(0, len(answer.text), CUT):
            last = at + CUT >= len(answer.text)
            step = await screen.push(Piece(answer.text[at : at + CUT]), final=last)
            out = step.release.end
            if step.then == "stop":
                return out, held
            held.append(screen.held)
    finally:
        await screen.aclose()
    return None, held


def percentile(values: Sequence[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


async def measure(policy: Policy, pairs: int, at_once: int = 8) -> None:
    made = list(answers(pairs))
    gate = asyncio.Semaphore(at_once)

    async def one(answer: Answer) -> tuple[int | None, list[int]]:
        async with gate:
            return await streamed(policy, answer)

    ends = await asyncio.gather(*map(one, made))
    told: dict[tuple[str, str], list[bool]] = defaultdict(list)
    alarms: dict[tuple[str, str], list[bool]] = defaultdict(list)
    held: list[int] = []
    for answer, (out, waiting) in zip(made, ends, strict=True):
        held += waiting
        for key in ((answer.lang, answer.category), (answer.lang, "all"), ("all", "all")):
            if answer.turn is None:
                alarms[key].append(out is not None)
            else:
                told[key].append(out is not None and answer.turn - 2 <= out <= answer.two_sentences)
    print(f"{'':18} turning  stopped within two sentences   twins  stopped all the same")
    for key in sorted(told):
        stopped, wrong = told[key], alarms[key]
        print(
            f"{key[0]:4}{key[1]:14} {len(stopped):7}  {sum(stopped) / len(stopped):29.1%}"
            f"   {len(wrong):5}  {sum(wrong) / len(wrong):20.1%}"
        )
    print(f"characters held: p50 {percentile(held, 0.5)}, p99 {percentile(held, 0.99)}")


async def run(source: str, config: Path | None, pairs: int) -> None:
    resources = make_resources(read_settings({}, config), judge=False)
    try:
        await measure(load(source, resources).policy, pairs)
    finally:
        await close_resources(resources)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policy", default="default")
    parser.add_argument("--config", type=Path, help="settings, for classifiers that a policy names")
    parser.add_argument("--pairs", type=int, default=4, help="of every template and language")
    given = parser.parse_args()
    asyncio.run(run(given.policy, given.config, given.pairs))
