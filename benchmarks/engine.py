"""What the engine in process costs and saves. Figures and ratios of this one run; none is asserted.

    OMP_NUM_THREADS=1 python -m benchmarks.engine [--only NAME] [--repeat N]

One thread on CPU, the random model of 31 M parameters (`benchmarks/random_model.py`).
Times are the process's own, so that other work on the machine counts for neither side; lag alone is
by the clock on the wall.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from math import log
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

import click
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from benchmarks import random_model
from model_runner.errors import RunnerError
from model_runner.transformers.batch import Row, Segment
from model_runner.transformers.probe import Probe
from model_runner.transformers.runner import TransformersRunner
from model_runner.types import GenerateRequest, Generation, Sampling

NEW = random_model.NEW_TOKENS
LONG = (512, 600)
LABELS = ("a", "b")


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[TransformersRunner]:
    runner = TransformersRunner(str(folder), device="cpu", **options)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()


def request(ids: Sequence[int], new: int = NEW, **options: Any) -> GenerateRequest:
    return GenerateRequest(
        token_ids=tuple(ids), sampling=Sampling(max_tokens=new, temperature=0.0, **options)
    )


async def tokens(generation: Generation, times: list[float] | None = None) -> list[int]:
    found: list[int] = []
    async for delta in generation.deltas():
        if times is not None:
            times.append(process_time())
        found += delta.token_ids
    await generation.close()
    return found


async def answer(runner: TransformersRunner, ids: Sequence[int], new: int = NEW) -> list[int]:
    (generation,) = await runner.open(request(ids, new))
    return await tokens(generation)


async def first(runner: TransformersRunner, ids: Sequence[int], new: int = 2) -> float:
    """Seconds to the first token."""
    times: list[float] = []
    began = process_time()
    (generation,) = await runner.open(request(ids, new))
    await tokens(generation, times)
    return times[0] - began


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    began = process_time()
    result = await work
    return process_time() - began, result


def generated(
    folder: Path, dtype: str, prompts: Sequence[Sequence[int]]
) -> tuple[float, list[list[int]]]:
    """One after another, by transformers' `generate`: seconds of this process, and the tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    began, made = process_time(), []
    for ids in prompts:
        out = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=NEW, pad_token_id=0
        )
        made.append(out[0, len(ids) :].tolist())
    return process_time() - began, made


async def throughput(folder: Path, dtype: str, lengths: tuple[int, int]) -> dict[str, float]:
    prompts = random_model.prompts(16, lengths)
    alone, expected = generated(folder, dtype, prompts)
    async with serving(folder, dtype=dtype) as runner:
        await answer(runner, prompts[0][:8], 2)
        began = process_time()
        made = await asyncio.gather(*(answer(runner, ids) for ids in prompts))
        together = process_time() - began
    same = sum(a == b for a, b in zip(made, expected, strict=True))
    return {
        "generate, seconds": alone,
        "together, seconds": together,
        "generate ÷ together": alone / together,
        "the same tokens, of 16": same,
    }


async def arrival(folder: Path) -> dict[str, float]:
    """16 that arrive together, against a step that reads one prompt and then writes for all."""
    prompts = random_model.prompts(16)
    async with serving(folder) as runner:
        loaded, _ = runner._ready()  # noqa: SLF001
        await answer(runner, [1, 7, 8, 9], 8)
        ours = statistics.median(await asyncio.gather(*(first(runner, i, NEW) for i in prompts)))
    model, times = loaded.model, []
    began = process_time()
    rows: list[Row] = []
    for ids in prompts:
        row = model.store.row()
        model.store.reserve(row, len(ids) + NEW)
        model.forward([Segment(row, ids, 0, outputs=(len(ids) - 1,))]).argmax(-1).tolist()
        times.append(process_time() - began)
        rows.append(row)
        writing = [Segment(other, [7], other.length, outputs=(0,)) for other in rows]
        model.forward(writing).argmax(-1).tolist()
    one = statistics.median(times)
    return {"seconds, p50": ours, "one prompt per step": one, "ratio": ours / one}


async def stall(folder: Path) -> dict[str, float]:
    """A stream that runs while a prompt of 4,000 tokens comes in."""
    (ids,) = random_model.prompts(1)
    (long,) = random_model.prompts(1, (4000, 4000))
    async with serving(folder) as runner:
        times: list[float] = []
        (generation,) = await runner.open(request(ids, 2000))
        reading = asyncio.create_task(tokens(generation, times))
        await answer(runner, ids[:20], 60)
        await asyncio.sleep(1.0)
        usual = statistics.median(b - a for a, b in pairwise(times[-20:]))
        began = len(times)
        took = await first(runner, long)
        gaps = sorted(b - a for a, b in pairwise(times[began - 1 :]))
        await generation.close()
        reading.cancel()
    return {
        "usual step, ms": usual * 1e3,
        "longest gap ÷ usual step": gaps[-1] / usual,
        "median gap ÷ usual step": statistics.median(gaps) / usual,
        "seconds to the prompt's first token": took,
    }


async def second_turn(folder: Path) -> dict[str, float]:
    (ids,) = random_model.prompts(1, (2000, 2000))
    async with serving(folder) as runner:
        times: list[float] = []
        began = process_time()
        (generation,) = await runner.open(request(ids, 16))
        said = await tokens(generation, times)
        one = times[0] - began
        two = await first(runner, [*ids, *said, *random_model.prompts(1)[0]])
    return {"first, seconds": one, "second, seconds": two, "ratio": two / one}


async def lag(folder: Path) -> dict[str, float]:
    """How late the event loop is while 16 streams are read."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = perf_counter()
            await asyncio.sleep(0.005)
            late.append(perf_counter() - began - 0.005)

    async with serving(folder) as runner:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(answer(runner, ids) for ids in random_model.prompts(16)))
        watching.cancel()
    late.sort()
    return {
        "p50, ms": late[len(late) // 2] * 1e3,
        "p99, ms": late[len(late) * 99 // 100] * 1e3,
        "most, ms": late[-1] * 1e3,
    }


async def score(folder: Path) -> dict[str, float]:
    """A critique of 46 tokens behind 1,000; three that have 36 in common, as rubrics do.

    Set against 64 tokens written there, and against as many in a conversation that just began.
    """
    (ids,) = random_model.prompts(1, (1000, 1000))
    rubrics = [("0123456789" * 4)[:36] + letter + "1" * 9 for letter in "xyz"]
    async with serving(folder) as runner:
        runner_ids = runner.encode(rubrics[0])
        assert len(runner_ids) == 46  # noqa: S101
        label_ids = [runner.encode(label)[0] for label in LABELS]
        writing, beginning = [], []
        one, three, afresh = [], [], []
        (generation,) = await runner.open(request(ids, 1))
        async for _ in generation.deltas():
            pass
        for _ in range(5):
            writing.append((await timed(answer(runner, ids, NEW)))[0])
            beginning.append((await timed(answer(runner, ids[:50], NEW)))[0])
            took, found = await timed(generation.score(rubrics[0], LABELS, at=0))
            one.append(took)
            every = (generation.score(rubric, LABELS, at=0) for rubric in rubrics)
            three.append((await timed(asyncio.gather(*every)))[0])
            # nothing is there of another tenant's
            fresh = GenerateRequest(token_ids=tuple(ids), tenant=str(process_time()))
            afresh.append((await timed(runner.judge(fresh, rubrics[0], LABELS)))[0])
        await generation.close()
    middle = statistics.median
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        row = model(torch.tensor([[*ids, *runner_ids]])).logits[0, -1].softmax(-1)
    exact = [float(row[label]) for label in label_ids]
    return {
        "critique ÷ writing 64 tokens there": middle(one) / middle(writing),
        "critique ÷ writing 64 behind 50": middle(one) / middle(beginning),
        "with reuse ÷ from scratch": middle(one) / middle(afresh),
        "three rubrics ÷ one": middle(three) / middle(one),
        "difference in log probability": max(
            abs(log(p / q)) for p, q in zip(found.values(), exact, strict=True)
        ),
    }


async def probe(folder: Path, rounds: int = 15) -> dict[str, float]:
    """Steps of one stream, with a probe on a middle layer and without, turn by turn."""
    file = folder / "probe.safetensors"
    (ids,) = random_model.prompts(1, (50, 50))
    async with serving(folder) as plain:
        digest = plain.info.digest
        Probe(4, torch.randn(512), 0.0, digest).save(file)
        async with serving(folder, probes={"p": file}) as probed:
            without, with_it = [], []
            for _ in range(rounds):
                without.append((await timed(answer(plain, ids)))[0])
                with_it.append((await timed(answer(probed, ids)))[0])
    pairs = [a / b for a, b in zip(with_it, without, strict=True)]
    return {"probe ÷ none, a step": statistics.median(pairs)}


def resident_mib() -> float:
    """What this process holds now, not at its peak; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def soak(folder: Path, count: int = 10_000) -> dict[str, float]:
    """Random requests, some bad, some cancelled, some whose reader goes away."""
    random = Random(0)
    ended = {"answered": 0, "closed": 0, "lost reader": 0, "refused": 0, "full": 0}
    turns = asyncio.Semaphore(48)

    async def one(runner: TransformersRunner) -> None:
        async with turns:
            ids = random_model.prompts(1, (4, 24))[0][: random.randint(4, 24)]
            ids = [1, *(random.randrange(5, random_model.VOCABULARY) for _ in ids)]
            options: dict[str, Any] = random.choice(
                [{}, {"n": 2}, {"top_p": 0.5}, {"top_p": 7.0}, {"n": 0}, {"stop": ("a",)}]
            )
            new, way = random.randint(1, 8), random.random()
            try:
                opened = await runner.open(request(ids, new, **options))
            except RunnerError as error:
                ended["full" if hasattr(error, "retry_after") else "refused"] += 1
                return
            if way < 0.6:
                await asyncio.gather(*(tokens(generation) for generation in opened))
                ended["answered"] += 1
            elif way < 0.8:
                await asyncio.sleep(random.random() * 0.1)
                for generation in opened:
                    await generation.close()
                ended["closed"] += 1
            else:
                reading = asyncio.create_task(tokens(opened[0]))
                await asyncio.sleep(random.random() * 0.1)
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
                ended["lost reader"] += 1

    async with serving(folder, memory=64 << 20) as runner:
        _, engine = runner._ready()  # noqa: SLF001
        tenth, took, resident = count // 10, 0.0, []
        for _ in range(10):
            took += (await timed(asyncio.gather(*(one(runner) for _ in range(tenth)))))[0]
            await asyncio.sleep(0.2)
            await engine.call(lambda: None)
            gc.collect()
            resident.append(resident_mib())
        seen = engine.stats()
    return {
        **ended,
        "lost": tenth * 10 - sum(ended.values()),
        "rows still held": seen["rows"],
        **{f"memory after {n + 1} tenths, MiB": held for n, held in enumerate(resident)},
        "memory grown since the second, MiB": resident[-1] - resident[1],
        "requests per second": tenth * 10 / took,
    }


async def peer(folder: Path) -> dict[str, float]:
    """Transformers' own continuous batching, where it runs."""
    prompts = random_model.prompts()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="paged|sdpa")
    made: Any = GenerationConfig
    config = made(do_sample=False, max_new_tokens=NEW, eos_token_id=2, pad_token_id=0)
    began = process_time()
    await asyncio.to_thread(
        model.generate_batch, inputs=prompts, generation_config=config, progress_bar=False
    )
    theirs = process_time() - began
    async with serving(folder) as runner:
        ours, _ = await timed(asyncio.gather(*(answer(runner, ids) for ids in prompts)))
    return {"theirs, seconds": theirs, "ours, seconds": ours, "theirs ÷ ours": theirs / ours}


PARTS: dict[str, Callable[[Path], Coroutine[Any, Any, dict[str, float]]]] = {
    "float32": lambda folder: throughput(folder, "float32", random_model.LENGTHS),
    "bfloat16": lambda folder: throughput(folder, "bfloat16", random_model.LENGTHS),
    "long": lambda folder: throughput(folder, "float32", LONG),
    "arrival": arrival,
    "stall": stall,
    "second-turn": second_turn,
    "lag": lag,
    "score": score,
    "probe": probe,
    "soak": soak,
    "peer": peer,
}


@click.command()
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True)
@click.option("--requests", default=10_000, show_default=True, help="Of the soak.")
@click.option("--repeat", default=1, show_default=True, help="Times each part; medians are shown.")
def main(only: tuple[str, ...], requests: int, repeat: int) -> None:
    PARTS["soak"] = lambda folder: soak(folder, requests)
    torch.set_num_threads(1)
    quiet: Any = logging
    quiet.disable_progress_bar()
    with tempfile.TemporaryDirectory() as made:
        folder = random_model.make(Path(made))
        for name in only or PARTS:
            runs = [asyncio.run(PARTS[name](folder)) for _ in range(repeat)]
            print(name)
            for key in runs[0]:
                print(f"  {key:40} {statistics.median(run[key] for run in runs):10.4g}")


if __name__ == "__main__":
    main()
