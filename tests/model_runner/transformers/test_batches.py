"""Nobody's tokens depend on who else is there, on memory, on pieces or on prefixes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

from model_runner.errors import BadRequest, EngineFailed, Overloaded, RunnerError, Unsupported
from model_runner.transformers.batch import NoRoom, Segment, tree
from model_runner.transformers.model import Model
from model_runner.transformers.rows import RowStore
from model_runner.transformers.runner import TransformersRunner
from model_runner.transformers.support import check_served
from model_runner.types import GenerateRequest, Sampling
from tests.support.generations import Answer, ask, read, user
from tests.support.waiting import until

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
SEEDED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 4, "max_tokens": 24}
WORDS = ["yes", "no", "the", "answer", "is", "a", "house", "on", "the", "hill"]


def prompt(number: int) -> str:
    random = Random(number)
    return " ".join(random.choices(WORDS, k=random.randint(1, 24)))


def ids(answer: Answer) -> list[int]:
    return [token for delta in answer.deltas for token in delta.token_ids]


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[TransformersRunner]:
    runner = TransformersRunner(str(folder), device="cpu", **options)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()


@pytest.fixture(scope="session")
def requests() -> list[GenerateRequest]:
    return [user(prompt(i), **(GREEDY if i % 2 else SEEDED)) for i in range(16)]


@pytest.fixture
async def alone(plain: TransformersRunner, requests: list[GenerateRequest]) -> list[list[int]]:
    """Each on its own, and behind nobody's prefix."""
    return [
        ids((await ask(plain, replace(one, tenant=f"alone {i}")))[0])
        for i, one in enumerate(requests)
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"read": 8}, {"concurrency": 3}, {"memory": 200_000}, {"paged": True, "graphs": True}],
    ids=["together", "in pieces", "in turns", "in little memory", "in pages"],
)
async def test_a_batch_changes_nothing(
    tame: Path, requests: list[GenerateRequest], alone: list[list[int]], options: dict[str, Any]
) -> None:
    async with serving(tame, **options) as runner:
        made = await asyncio.gather(*(ask(runner, request) for request in requests))
        assert [ids(answer) for (answer,) in made] == alone
        stats = runner.stats()
    assert stats["kv_bytes"] <= stats["kv_limit_bytes"]
    assert not stats["faults"]


async def test_the_younger_makes_room_and_goes_on(plain: TransformersRunner, tame: Path) -> None:
    """Two answers, each of which fits, and that outgrow the memory together."""
    requests = [user(prompt(i), temperature=0.0, max_tokens=150) for i in (2, 3)]
    expected = [(await ask(plain, request))[0].text for request in requests]
    async with serving(tame, memory=65_536) as runner:
        made = await asyncio.gather(*(ask(runner, request) for request in requests))
        assert [answer.text for (answer,) in made] == expected
        assert runner.stats()["preempted"]


def test_a_row_may_fill_the_memory() -> None:
    """It grows by more than it needs, unless there is no more."""
    token = torch.zeros(1, 1, 1)
    most = 1024
    store = RowStore(most * 2 * token.nbytes)
    row = store.row()
    store.reserve(row, 64)
    store.begin(row, 0, token, token)  # from here on it knows what a token takes
    for length in range(64, most + 1):
        store.reserve(row, length)
        row.length = length
    assert store.used == store.limit
    with pytest.raises(NoRoom):
        store.reserve(row, most + 1)


async def test_the_younger_waits_for_room_that_an_earlier_one_has(tame: Path) -> None:
    """Though its turn in the step comes first: the earlier one gets on without it."""
    random, once = Random(1), Sampling(max_tokens=1, temperature=0.0)
    asked = [
        GenerateRequest(token_ids=tuple(random.choices(range(5, 200), k=size)), sampling=once)
        for size in (180, 100)
    ]
    async with serving(tame, memory=4 * 64 * 256) as runner:
        engine, hold = runner._ready()[1], threading.Event()
        scheduler = engine.scheduler

        def step() -> None:
            hold.wait()
            scheduler._admit()
            for choice in scheduler.running:
                assert scheduler.holders.begin(choice, ())
            earlier, younger = scheduler.running
            assert scheduler._add([], earlier, 1, writes=False)
            assert not scheduler._add([], younger, 1, writes=False)

        stepping = asyncio.create_task(engine.call(step))
        await until(lambda: bool(engine._jobs))
        opened = [generation for one in asked for generation in await runner.open(one)]
        hold.set()
        await stepping
        answers = await asyncio.gather(*map(read, opened))
    assert [answer.last.finish_reason for answer in answers] == ["length", "length"]


async def test_a_neighbour_that_goes_changes_nothing(
    tame: Path, requests: list[GenerateRequest], alone: list[list[int]]
) -> None:
    async with serving(tame) as runner:

        async def leave(request: GenerateRequest) -> None:
            (generation,) = await runner.open(request)
            async for _ in generation.deltas():
                await generation.close()

        half = len(requests) // 2
        made, _ = await asyncio.gather(
            asyncio.gather(*(ask(runner, request) for request in requests[:half])),
            asyncio.gather(*(leave(request) for request in requests[half:])),
        )
        assert [ids(answer) for (answer,) in made] == alone[:half]
        assert not runner.stats()["running"]


async def test_prefixes_are_reused_and_change_nothing(
    tame: Path, requests: list[GenerateRequest], alone: list[list[int]]
) -> None:
    async with serving(tame) as runner:
        for _ in range(2):
            made = [ids((await ask(runner, request))[0]) for request in requests[:12]]
            assert made == alone[:12]
            gc.collect()  # generations that nobody holds give up their rows
        before = runner.stats()
        assert before["prefix_hits"] >= 4
        assert before["prefix_tokens"] >= 4 * 16
        other = replace(requests[3], tenant="another")
        assert ids((await ask(runner, other))[0]) == alone[3]
        assert runner.stats()["prefix_hits"] == before["prefix_hits"]


async def test_choices_share_one_reading(tame: Path) -> None:
    async with serving(tame) as runner:
        request = user("the house on the hill " * 8, **SEEDED, n=4)
        answers = await ask(runner, request)
        assert len({tuple(ids(answer)) for answer in answers}) > 1
        assert runner.stats()["prefix_hits"] == 3
        length = runner.count(request)
        assert runner.stats()["tokens_read"] <= length + 3 * 16


async def test_no_keys_prompts_keep_another_waiting(tame: Path) -> None:
    """Each is read at once, in many steps; whoever comes between waits for one or two of them."""
    random = Random(1)
    once = Sampling(max_tokens=1, temperature=0.0)
    longs = [
        GenerateRequest(
            token_ids=tuple(random.choices(range(5, 200), k=240)), key="greedy", sampling=once
        )
        for _ in range(15)
    ]
    order: list[str] = []

    async def answer(request: GenerateRequest) -> None:
        await ask(runner, request)
        order.append(request.key)

    async with serving(tame, read=8) as runner:
        async with asyncio.TaskGroup() as tasks:
            for request in longs:
                tasks.create_task(answer(request))
            await until(lambda: bool(order))
            before = len(order)
            await answer(GenerateRequest(prompt="Hello", key="other", sampling=once))
            assert len(order) - before <= 3
        assert len(order) == 16


async def test_who_has_not_begun_gives_way_to_another_key(tame: Path) -> None:
    random = Random(1)
    long = Sampling(max_tokens=100, temperature=0.0, logit_bias={2: -100.0})
    greedy = [
        GenerateRequest(
            token_ids=tuple(random.choices(range(5, 200), k=150)), key="greedy", sampling=long
        )
        for _ in range(3)
    ]
    async with serving(tame, read=1, concurrency=2) as plain:
        expected = [(await ask(plain, request))[0].text for request in greedy]
    async with serving(tame, read=1, concurrency=2) as runner:
        asked = [asyncio.create_task(ask(runner, request)) for request in greedy]
        await until(lambda: runner.stats()["running"] == 2)
        short = Sampling(max_tokens=1, temperature=0.0)
        await ask(runner, GenerateRequest(prompt="Hello", key="other", sampling=short))
        assert not any(task.done() for task in asked)  # nobody's place was free
        made = await asyncio.gather(*asked)
    assert [answer.text for (answer,) in made] == expected


async def test_a_fault_is_the_fault_of_one(plain: TransformersRunner) -> None:
    """What is wrong with one request, in the middle of a batch, ends that one alone."""
    loaded, _ = plain._ready()
    poison = 0  # a special token, which this model does not write

    def fail(_module: object, _args: object, given: dict[str, Any]) -> None:
        if poison in given["input_ids"]:
            raise RuntimeError("SECRET")

    expected = await asyncio.gather(*(ask(plain, user(prompt(i), **GREEDY)) for i in range(4)))
    hook = loaded.model.module.register_forward_pre_hook(fail, with_kwargs=True)
    good = [ask(plain, user(prompt(i), **GREEDY)) for i in range(4)]
    bad = [ask(plain, GenerateRequest(token_ids=(1, poison, 5 + i))) for i in range(2)]
    made = await asyncio.gather(*good, *bad, return_exceptions=True)
    hook.remove()
    for one, other in zip(made[:4], expected, strict=True):
        assert isinstance(one, list)
        assert one[0].text == other[0].text
    assert all(isinstance(one, EngineFailed) for one in made[4:])
    assert plain.stats()["faults"] == plain.stats()["rebuilt"] == 2
    assert plain.health().ok


async def test_logits_that_are_no_numbers_end_that_choice(plain: TransformersRunner) -> None:
    loaded, _ = plain._ready()

    def spoil(_module: object, _args: object, made: Any) -> None:
        made.logits[0, -1] = float("nan")

    hook = loaded.model.module.register_forward_hook(spoil)
    with pytest.raises(EngineFailed, match="not numbers"):
        await ask(plain, user("Hello", **GREEDY))
    hook.remove()
    assert (await ask(plain, user("Hello", **GREEDY)))[0].text


async def test_pages_score_as_rows_do(plain: TransformersRunner, tame: Path) -> None:
    """Also across the end of a page, which is begun anew in pages of the score's own."""
    request = user("the house " * 30, **GREEDY)
    async with serving(tame, paged=True) as paged:
        (one,), (other,) = await plain.open(request), await paged.open(request)
        answer = await read(one)
        assert ids(await read(other)) == ids(answer)
        for at in (0, 9, len(answer.text)):
            expected = await one.score(" is it? yes", (" yes", " no"), at=at)
            found = await other.score(" is it? yes", (" yes", " no"), at=at)
            assert dict(found) == pytest.approx(dict(expected), rel=1e-3)
        await other.close()
        await one.close()


async def test_scores_of_many_at_once_are_those_of_each(plain: TransformersRunner) -> None:
    request = user(prompt(3), **GREEDY)
    (generation,) = await plain.open(request)
    answer = await read(generation)
    suffixes = [" is it the answer? a", " is it the answer? no b", " is it", "? yes"]
    places = (0, 5, len(answer.text))
    one = [
        dict(await generation.score(suffix, (" yes", " no"), at=at))
        for at in places
        for suffix in suffixes
    ]
    every = await asyncio.gather(
        *(generation.score(s, (" yes", " no"), at=at) for at in places for s in suffixes)
    )
    for a, b in zip(one, every, strict=True):
        assert a == pytest.approx(dict(b), rel=1e-4)
    await generation.close()


def test_a_tree_reads_what_is_common_once() -> None:
    same, offsets, sees, ends = tree([[1, 2, 3]])
    assert (same, offsets, sees, ends) == ([1, 2, 3], [0, 1, 2], None, [2])
    made, offsets, sees, ends = tree([[1, 2, 3], [1, 2, 4, 5], [1, 2]])
    assert made == [1, 2, 3, 4, 5]
    assert offsets == [0, 1, 2, 2, 3]
    assert ends == [2, 4, 1]
    assert sees is not None
    assert sees.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


async def test_a_request_that_can_never_fit_is_refused(tame: Path) -> None:
    async with serving(tame, memory=20_000) as runner:
        with pytest.raises(BadRequest, match="memory"):
            await runner.open(user("a" * 120, temperature=0.0, max_tokens=60))
        assert (await ask(runner, user("a", temperature=0.0, max_tokens=4)))[0].text


async def test_the_judge_has_its_reserve(tame: Path) -> None:
    async with serving(tame, reserve=40) as runner:
        length = runner.count(user("Hello"))
        (answer,) = await ask(runner, user("Hello", temperature=0.0))
        assert answer.last.usage is not None
        assert answer.last.usage.completion_tokens == 256 - 40 - length


async def test_none_is_lost(tame: Path) -> None:
    """Random requests, some bad, some left: all end, no row is kept, nothing leaks."""
    random = Random(1)
    async with serving(tame, concurrency=6, queue=12, memory=400_000) as runner:
        ended = 0

        async def one(number: int) -> None:
            nonlocal ended
            options: dict[str, Any] = random.choice(
                [{}, {"n": 3}, {"top_p": 9.0}, {"stop": ("e",)}, SEEDED]
            )
            asked = {**options, "max_tokens": random.randint(1, 9)}
            request = replace(user(prompt(number % 7), **asked), key=f"key {number % 3}")
            await asyncio.sleep(random.random() * 0.5)
            try:
                opened = await runner.open(request)
            except RunnerError as error:
                ended += 1
                assert isinstance(error, BadRequest | Overloaded)
                return
            if random.random() < 0.5:
                await asyncio.gather(*(read(generation) for generation in opened))
            else:
                reading = asyncio.create_task(read(opened[0]))
                await asyncio.sleep(random.random() * 0.02)
                reading.cancel()
            for generation in opened:
                await generation.close()
            ended += 1

        await asyncio.wait_for(asyncio.gather(*map(one, range(150))), 60)
        await runner._ready()[1].call(lambda: None)
        stats = runner.stats()
        assert ended == 150
        assert stats["rows"] == stats["running"] == stats["waiting"] == stats["faults"] == 0
        assert stats["kv_bytes"] <= 400_000
        scheduler = runner._ready()[1].scheduler
        scheduler.holders.prefixes.clear()
        assert runner.stats()["kv_bytes"] == 0


def served(module: Any, vocabulary: int) -> Model:
    model = Model(
        module.eval(), torch.device("cpu"), vocabulary, 64, frozenset(), RowStore(1 << 24)
    )
    check_served(model)
    return model


def test_soft_caps_and_layers_that_differ_are_served() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        attn_logit_softcapping=2.0,
    )
    model = served(Gemma2ForCausalLM(config), 64)
    assert not model.store.used


def test_a_model_with_another_state_is_refused_by_name() -> None:
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(Unsupported, match="MambaForCausalLM"):
        served(MambaForCausalLM(config), 64)


async def test_in_half_precision_many_tokens_are_those_of_few(tame: Path) -> None:
    """Wide and narrow products differ by rounding alone."""
    async with serving(tame, dtype="bfloat16") as runner:
        model = runner._ready()[0].model
        asked = [7, 9, 11, 13, 15, 17, 19, 21]
        row = model.store.row()
        model.store.reserve(row, 8)
        whole = model.forward([Segment(row, asked, 0, outputs=(7,))])
        row.length = 0
        for at, token in enumerate(asked):
            single = model.forward([Segment(row, [token], at, outputs=(0,))])
        assert torch.allclose(whole, single, atol=0.1 * float(whole.std()))


async def test_a_score_that_finds_no_page_takes_that_of_a_prefix(
    plain: TransformersRunner, tame: Path
) -> None:
    request = user("is the house on the hill", **GREEDY)
    (same,) = await plain.open(request)
    await read(same)
    expected = await same.score(" is it?", (" yes", " no"), at=0)
    await same.close()
    async with serving(tame, paged=True) as paged:
        page = paged._ready()[0].model.store.size(1)
    async with serving(tame, paged=True, memory=4 * page) as paged:
        for tenant in "abc":
            kept = user("a prompt that is kept for what comes", **GREEDY)
            await ask(paged, replace(kept, tenant=tenant))
        await paged._ready()[1].call(gc.collect)
        (generation,) = await paged.open(request)
        await read(generation)
        assert paged.stats()["prefixes"] == 3
        assert paged.stats()["kv_bytes"] == 4 * page
        found = await generation.score(" is it?", (" yes", " no"), at=0)
        assert dict(found) == pytest.approx(dict(expected), rel=1e-3)
        assert paged.stats()["prefixes"] == 2
        assert paged.stats()["faults"] == 0
        await generation.close()
