"""Micro-batching: company never shows, overload is refused, one text's fault is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from threading import Event, current_thread
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.batching import GRID, BatchedFinder, Batcher
from filters.errors import FilterFailed, FilterOverloaded
from filters.parties import PARTY, Party
from filters.types import Found, Span


class Noisy:
    """A model whose scores depend on company by up to `noise`, as padded batches' do."""

    categories = ("bad",)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.entered = Event()
        self.gate = Event()
        self.gate.set()

    def compute(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        self.entered.set()
        self.gate.wait(60)
        self.threads.add(current_thread().name)
        self.batches.append(list(texts))
        if any("poison" in text for text in texts):
            raise ValueError("private text")
        company = self.noise * (crc32("".join(texts).encode()) % 3 - 1) if len(texts) > 1 else 0.0
        return [{"bad": self._score(text) + company} for text in texts]

    @staticmethod
    def _score(text: str) -> float:
        if text.startswith("edge"):  # in the middle of two multiples, where noise decides
            return (len(text) + 0.5) * GRID
        if text == "nan":
            return float("nan")
        return 0.1 + 0.8 * (crc32(text.encode()) % 1000 / 1000)


class Counted:
    def __init__(self) -> None:
        self.depths: list[int] = []
        self.sizes: list[int] = []
        self.refused = 0

    def queued(self, depth: int) -> None:
        self.depths.append(depth)

    def batch(self, size: int, waited: float, seconds: float) -> None:
        assert waited >= 0 <= seconds
        self.sizes.append(size)

    def shed(self, texts: int) -> None:
        self.refused += texts


@given(
    st.lists(st.sampled_from(["a", "b", "edge", "edge!", "edge!!", "a longer text"]), max_size=12)
)
async def test_company_never_shows(texts: list[str]) -> None:
    batcher = Batcher(Noisy(4e-7), linger=0.0, size=5)
    together = await batcher.score(texts)
    apart = [(await batcher.score([text]))[0] for text in reversed(texts)]
    assert list(together) == apart[::-1]
    batcher.close()


async def test_what_waits_is_scored_together_and_never_more_than_a_batch() -> None:
    model, seen = Noisy(), Counted()
    batcher = Batcher(model, size=4, linger=0.0, observer=seen, name="mine")
    model.gate.clear()
    first = asyncio.create_task(batcher.score(["first"]))
    await asyncio.to_thread(model.entered.wait, 60)  # the thread has taken it, and others gather
    rest = [asyncio.create_task(batcher.score([f"text {n}"])) for n in range(10)]
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(first, *rest)
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 2]
    assert seen.sizes == [1, 4, 4, 2]
    assert max(seen.depths) == 10
    assert seen.depths[-1] == 0
    assert model.threads == {"mine"}
    batcher.close()


async def test_a_long_text_does_not_fill_the_queue() -> None:
    model, seen = Noisy(), Counted()
    batcher = Batcher(model, size=4, queue=6, linger=0.0, observer=seen)
    scores = await batcher.score([str(n) for n in range(40)])
    assert len(scores) == 40
    assert max(seen.depths) <= 4
    batcher.close()


async def test_overload_is_refused_and_counted() -> None:
    model, seen = Noisy(), Counted()
    batcher = Batcher(model, size=2, queue=4, linger=0.0, observer=seen)
    model.gate.clear()
    asked = [asyncio.create_task(batcher.score([str(n), "x"])) for n in range(6)]
    await asyncio.to_thread(model.entered.wait, 60)
    model.gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [a for a in answers if isinstance(a, FilterOverloaded)]
    assert 0 < len(refused) < 6
    assert seen.refused == 2 * len(refused)
    assert all(isinstance(a, list) or a in refused for a in answers)
    batcher.close()


async def test_one_text_s_fault_is_its_own() -> None:
    batcher = Batcher(Noisy(), linger=0.01)
    well, ill, nonsense = await asyncio.gather(
        batcher.score(["a"]),
        batcher.score(["poison"]),
        batcher.score(["nan"]),
        return_exceptions=True,
    )
    assert isinstance(ill, ValueError)
    assert isinstance(well, list)
    assert isinstance(nonsense, list)
    assert nonsense[0]["bad"] != nonsense[0]["bad"]  # for the chain to refuse
    assert await batcher.score(["b"])
    batcher.close()


async def test_what_nobody_waits_for_is_not_scored() -> None:
    model = Noisy()
    batcher = Batcher(model, size=1, linger=0.0)
    model.gate.clear()
    first = asyncio.create_task(batcher.score(["first"]))
    await asyncio.to_thread(model.entered.wait, 60)
    left = asyncio.create_task(batcher.score(["left"]))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])  # it takes some turns of the loop until the worker is told
    model.gate.set()
    await first
    await batcher.score(["last"])
    assert model.batches == [["first"], ["last"]]
    batcher.close()


async def test_the_event_loop_runs_on_while_a_batch_is_computed() -> None:
    model = Noisy()
    batcher = Batcher(model)
    model.gate.clear()
    scoring = asyncio.create_task(batcher.score(["a"]))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not scoring.done()
    model.gate.set()
    assert len(await scoring) == 1
    batcher.close()


async def test_closed_fails_and_closes_again() -> None:
    model = Noisy()
    batcher = Batcher(model, linger=30)
    waiting = asyncio.create_task(batcher.score(["a"]))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(batcher.close)
    with pytest.raises(FilterFailed, match="closed"):
        await waiting
    with pytest.raises(FilterFailed, match="closed"):
        await batcher.score(["a"])
    batcher.close()


def test_one_batcher_serves_one_loop_after_another() -> None:
    batcher = Batcher(Noisy())
    assert asyncio.run(_once(batcher)) == asyncio.run(_once(batcher))
    batcher.close()


async def _once(batcher: Batcher) -> Sequence[Mapping[str, float]]:
    return await batcher.score(["a", "b"])


async def test_spans_are_batched_too() -> None:
    class Finds:
        categories = frozenset({"x"})

        def compute(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]:
            return [[Found("x", Span(0, len(text)), 1.0)] if text else [] for text in texts]

    finder = BatchedFinder(Finds())
    assert finder.categories == {"x"}
    assert await finder.find(["ab", ""]) == [[Found("x", Span(0, 2), 1.0)], []]
    finder.close()


async def test_requests_take_turns() -> None:
    """Who has hundreds of texts does not keep the one of another waiting for them all."""
    model = Noisy()
    model.gate.clear()
    batcher = Batcher(model, size=4, linger=0.0, queue=64)

    async def asks(*texts: str) -> Sequence[Mapping[str, float]]:
        PARTY.set(Party())  # each task has a context of its own
        return await batcher.score(texts)

    many = asyncio.create_task(asks(*(f"long {n}" for n in range(200))))
    await asyncio.to_thread(model.entered.wait, 60)
    others = [asyncio.create_task(asks(f"other {n}")) for n in range(3)]
    await asyncio.sleep(0.05)
    model.gate.set()
    await asyncio.gather(*others, many)
    batcher.close()
    late = [n for n, batch in enumerate(model.batches) if any("other" in text for text in batch)]
    assert max(late) <= 2
    assert len(model.batches) >= 200 / 4


async def test_one_request_does_not_fill_the_queue() -> None:
    """However many texts it has screened at once: others are not refused for it."""
    model = Noisy()
    model.gate.clear()
    batcher = Batcher(model, noise=0.0, size=4, linger=0.0, queue=40)

    async def flood() -> None:
        PARTY.set(Party())
        await asyncio.gather(*(batcher.score([f"{n} {k}" for k in range(9)]) for n in range(90)))

    flooding = asyncio.create_task(flood())
    await asyncio.to_thread(model.entered.wait, 60)
    await asyncio.sleep(0.05)
    other = asyncio.create_task(batcher.score(["other"]))
    await asyncio.sleep(0.05)
    model.gate.set()
    assert len(await other) == 1
    await flooding
    batcher.close()
    assert sum(map(len, model.batches)) == 90 * 9 + 1


async def test_a_short_text_does_not_wait_for_long_ones_of_its_own_request() -> None:
    model = Noisy()
    model.gate.clear()
    batcher = Batcher(model, noise=0.0, size=8, linger=0.0)
    PARTY.set(Party(16))
    many = [asyncio.create_task(batcher.score([f"{n} {k}" for k in range(90)])) for n in range(15)]
    await asyncio.to_thread(model.entered.wait, 60)
    await asyncio.sleep(0.05)
    short = asyncio.create_task(batcher.score(["short"]))
    await asyncio.sleep(0.05)
    model.gate.set()
    await asyncio.gather(short, *many)
    batcher.close()
    assert next(n for n, batch in enumerate(model.batches) if "short" in batch) <= 8
    assert sum(map(len, model.batches)) == 15 * 90 + 1


async def test_a_batch_of_long_texts_is_short() -> None:
    model = Noisy()
    model.gate.clear()
    batcher = Batcher(model, noise=0.0, size=8, characters=100, linger=0.0)
    texts = ["x" * 40] * 5 + ["y" * 300] + ["z" * 10] * 9
    asked = asyncio.create_task(batcher.score(texts))
    await asyncio.to_thread(model.entered.wait, 60)
    model.gate.set()
    await asked
    batcher.close()
    assert [len(batch) for batch in model.batches] == [2, 2, 1, 1, 2, 7]


@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=30),
    st.integers(1, 8),
)
def test_room_is_never_overdrawn_and_always_given_back(
    asked: list[tuple[int, bool]], most: int
) -> None:
    """asked: texts of each call, and whether its task is cancelled in the middle of all."""

    async def run() -> None:
        party, inside, served = Party(most), 0, list[int]()

        async def call(number: int, texts: int) -> None:
            nonlocal inside
            async with party.room(texts):
                inside += min(texts, most)
                assert inside <= most
                try:
                    await asyncio.sleep(0)
                finally:
                    inside -= min(texts, most)
                served.append(number)

        tasks = [asyncio.create_task(call(n, texts)) for n, (texts, _) in enumerate(asked)]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, asked, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(t.exception() for t in tasks if not t.cancelled())
        left = [n for n, task in enumerate(tasks) if not task.cancelled()]
        assert sorted(served) == left
        async with asyncio.timeout(5):
            async with party.room(most):  # all of it is there again
                pass

    asyncio.run(run())
