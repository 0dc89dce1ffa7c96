"""Faults outside the model's pass end with those they hit; the engine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from model_runner.errors import EngineFailed
from model_runner.transformers.batch import Row
from model_runner.transformers.pace import Pace
from model_runner.transformers.prefix import Ids, Owner, PrefixCache
from model_runner.transformers.runner import TransformersRunner
from tests.support import tiny
from tests.support.generations import read, user


class Fault(Exception):
    """Of no library, so that nobody expects it."""


class FaultyPrefixes(PrefixCache):
    """Fails when told to."""

    failing: str = ""

    def find(self, owner: Owner, ids: Ids) -> tuple[Row, int] | None:
        if self.failing == "find":
            raise Fault
        return super().find(owner, ids)

    def keep(self, owner: Owner, ids: Sequence[int], row: Row) -> None:
        if self.failing == "keep":
            raise Fault
        super().keep(owner, ids, row)


class FaultyPace(Pace):
    """Fails when told to, before any choice is looked at alone."""

    failing: str = ""

    def units(self, count: int, past: int) -> float:
        if self.failing == "units":
            raise Fault
        return super().units(count, past)


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[TransformersRunner]:
    tiny.save(tmp_path, ascii_only=True)
    made = TransformersRunner(str(tmp_path), device="cpu")
    await made.start()
    yield made
    await made.close()


def parts(runner: TransformersRunner) -> tuple[Any, FaultyPrefixes, FaultyPace]:
    """Its scheduler, with parts that fail when told to put into it."""
    scheduler: Any = runner._ready()[1].scheduler
    scheduler.holders.prefixes = FaultyPrefixes(scheduler.holders._store)
    scheduler._pace.__class__ = FaultyPace
    return scheduler, scheduler.holders.prefixes, scheduler._pace


async def said(runner: TransformersRunner, text: str) -> Sequence[int]:
    (generation,) = await runner.open(user(text, temperature=0.0, max_tokens=12))
    try:
        answer = await read(generation)
        return [token for delta in answer.deltas for token in delta.token_ids]
    finally:
        await generation.close()


async def test_a_fault_hits_its_request_and_the_engine_goes_on(runner: TransformersRunner) -> None:
    scheduler, prefixes, pace = parts(runner)
    alone = [await said(runner, f"Hello {n}") for n in range(3)]
    prefixes.failing = "find"
    with pytest.raises(EngineFailed, match="Fault"):
        await said(runner, "Hello 0")
    prefixes.failing = "keep"
    assert await said(runner, "Hello 0") == alone[0]
    await runner._ready()[1].call(scheduler._sweep)
    prefixes.failing, pace.failing = "", "units"
    with pytest.raises(EngineFailed, match="Fault"):
        await said(runner, "Hello 0")
    pace.failing = ""
    assert [await said(runner, f"Hello {n}") for n in range(3)] == alone
    assert runner.health().ok
    assert scheduler.counts.faults >= 3


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_is_not_hit_says_what_it_says_alone(
    runner: TransformersRunner, seed: int
) -> None:
    scheduler, prefixes, pace = parts(runner)
    chance = Random(seed)
    alone = [await said(runner, f"Hello {n}") for n in range(4)]

    async def one() -> bool:
        number = chance.randrange(4)
        prefixes.failing = chance.choice(("", "", "", "find", "keep"))
        pace.failing = chance.choice(("", "", "", "", "units"))
        try:
            made = await said(runner, f"Hello {number}")
        except EngineFailed:
            return False
        assert made == alone[number]
        return True

    for _ in range(12):
        await asyncio.gather(*(one() for _ in range(4)))
    prefixes.failing = pace.failing = ""
    assert [await said(runner, f"Hello {n}") for n in range(4)] == alone
    await runner._ready()[1].call(scheduler._sweep)
    holders = scheduler.holders
    assert len(holders) == 0
    assert not scheduler.running
    assert holders.prefixes.bytes == holders._store.used  # nothing else holds room


async def test_a_score_of_a_step_that_fails_is_told_so(runner: TransformersRunner) -> None:
    _, _, pace = parts(runner)
    (generation,) = await runner.open(user("Hello", temperature=0.0, max_tokens=12))
    await read(generation)
    pace.failing = "units"
    async with asyncio.timeout(10):
        with pytest.raises(EngineFailed, match="Fault"):
            await generation.score("a", ["b", "c"], at=0)
    pace.failing = ""
    await generation.close()
    assert runner.health().ok
