"""The engine on a GPU: speed of a model of Mistral 7B's shape. One command, figures of one run.

    python -m benchmarks.gpu [--folder DIR] [--way NAME]...

Makes a checkpoint with random weights in DIR (14.5 GB; kept if it is there). As it is served, and
without what makes steps quicker: `--way` picks. `gateway ÷ engine` is the same answers streamed
over HTTP, behind the policy `patterns`.
Runs on torch 2.11 and transformers 5.17 or later. `--tiny` tries it out anywhere, CPUs too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import click
import torch
import transformers
from transformers import MistralConfig, MistralForCausalLM

from benchmarks import random_model
from benchmarks.engine import LABELS, request, tokens
from gateway.embedded_redis import EmbeddedRedis
from gateway.redis_connection import connect
from model_runner.transformers.runner import TransformersRunner
from model_runner.types import GenerateRequest, Message, Sampling
from tests.support.gateway import Gateway, serving

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32768,
}
TINY = {**SHAPE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
NEW = 128
NAME = "random"


def make(folder: Path, shape: dict[str, int], device: str) -> Path:
    """Random weights, in bfloat16, made on the device."""
    if (folder / "config.json").exists():
        return folder
    configure: Any = MistralConfig
    config = configure(
        **shape,
        max_position_embeddings=32768,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model: Any = MistralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        model.lm_head.weight[: len(random_model.SPECIAL)] = 0.0
    model.save_pretrained(folder)
    random_model.tokenizer().save_pretrained(folder)
    return folder


def bandwidth(device: str, size: int) -> float:
    """Bytes per second that a copy reads and writes together."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        _sync(device)
        began = perf_counter()
        target.copy_(source)
        _sync(device)
        times.append(perf_counter() - began)
    return 2 * size / statistics.median(times)


def _sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def questions(streams: int) -> list[str]:
    """Of 8 to 20 words of letters; the same in every run."""
    random = Random(9)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        " ".join("".join(random.choices(letters, k=5)) for _ in range(random.randint(8, 20)))
        for _ in range(streams)
    ]


async def rate(answer: Callable[[str], Awaitable[int]], streams: int) -> float:
    """Tokens per second that so many streams get together."""
    began = perf_counter()
    made = await asyncio.gather(*map(answer, questions(streams)))
    return sum(made) / (perf_counter() - began)


async def straight(runner: TransformersRunner, question: str) -> int:
    """How many tokens the engine answers."""
    asked = (Message("user", question),)
    sampling = Sampling(max_tokens=NEW, temperature=0.0)
    (generation,) = await runner.open(GenerateRequest(asked, sampling=sampling))
    return len(await tokens(generation))


async def over_http(gateway: Gateway, question: str) -> int:
    """The same, streamed by the gateway."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": NEW,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage: dict[str, int] = {}
    async with gateway.http.post(gateway.url + "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            text = line.decode().strip().removeprefix("data: ")
            if text.startswith("{"):
                usage = json.loads(text).get("usage") or usage
    return usage["completion_tokens"]


async def first(runner: TransformersRunner, ids: Sequence[int]) -> float:
    """Seconds to the first token, by the clock: the GPU's time is not this process's."""
    began = perf_counter()
    (generation,) = await runner.open(request(ids, 2))
    async for _ in generation.deltas():
        break
    seconds = perf_counter() - began
    await generation.close()
    return seconds


async def measure(
    folder: Path, device: str, weights: int, *, tiny: bool, **options: Any
) -> dict[str, float]:
    runner = TransformersRunner(
        str(folder),
        name=NAME,
        device=device,
        dtype="bfloat16",
        concurrency=128,
        queue=256,
        memory=(64 << 20) if tiny else (24 << 30),
        progress=lambda what: print(f"  {what}", flush=True),
        **options,
    )
    with EmbeddedRedis() as redis:
        async with (
            connect(redis.url, timeout=30) as connection,
            serving(runner, connection) as gateway,
        ):
            return await _figures(runner, gateway, device, weights, tiny=tiny)


async def _figures(
    runner: TransformersRunner, gateway: Gateway, device: str, weights: int, *, tiny: bool
) -> dict[str, float]:
    def engine(question: str) -> Awaitable[int]:
        return straight(runner, question)

    def http(question: str) -> Awaitable[int]:
        return over_http(gateway, question)

    found = Figures()
    copied = bandwidth(device, (1 << 24) if tiny else (1 << 32))
    for streams in (1, 8, 32) if tiny else (1, 8, 32, 128):
        await rate(engine, streams)  # graphs of this many are captured, compiled steps compiled
        alone = found[f"tokens/s, {streams} streams"] = await rate(engine, streams)
        await rate(http, streams)  # connections are made, first texts screened
        found[f"gateway ÷ engine, {streams} streams"] = await rate(http, streams) / alone
    found["batch 1 ÷ (copy bandwidth ÷ weights)"] = found["tokens/s, 1 streams"] / (
        copied / weights
    )
    found["32 streams ÷ 1"] = found["tokens/s, 32 streams"] / found["tokens/s, 1 streams"]
    for length in (1000, 8000):
        other, ids = random_model.prompts(2, (length, length))
        await first(runner, other)  # kernels for these shapes are chosen, memory is taken
        found[f"time to first token at {length}, s"] = await first(runner, ids)
    found["score ÷ writing 64 tokens"] = await _score(runner)
    if seconds := _replay(runner):
        found["a replay's share of a step, 1 stream"] = seconds * found["tokens/s, 1 streams"]
    return found


class Figures(dict[str, float]):
    """Told as they come, so that a run that is cut off has told what it measured."""

    def __setitem__(self, key: str, value: float) -> None:
        super().__setitem__(key, value)
        print(f"  {key}: {value:.4g}", flush=True)


def _replay(runner: TransformersRunner) -> float | None:
    """Seconds of a captured step of one stream, of an engine that does nothing else meanwhile."""
    loaded = runner._loaded  # noqa: SLF001 - what it made is looked at, and no user needs it
    decoder = loaded.model.decoder if loaded else None
    if decoder is None or not torch.cuda.is_available():
        return None
    runs = [run for (rows, _), (_, run) in decoder._runs.items() if rows == 1]  # noqa: SLF001
    if not runs:
        return None
    torch.cuda.synchronize()
    began = perf_counter()
    for _ in range(50):
        runs[0]()
    torch.cuda.synchronize()
    return (perf_counter() - began) / 50


async def _score(runner: TransformersRunner) -> float:
    (ids,) = random_model.prompts(1, (1000, 1000))
    (generation,) = await runner.open(request(ids, 64))
    began = perf_counter()
    await tokens(generation)
    writing = perf_counter() - began
    (generation,) = await runner.open(request(ids, 1))
    async for _ in generation.deltas():
        pass
    times = []
    for _ in range(5):
        began = perf_counter()
        await generation.score("0123456789" * 4 + "012345", LABELS, at=0)
        times.append(perf_counter() - began)
    await generation.close()
    return statistics.median(times) / writing


#: Elsewhere than on a GPU, steps go through the graphs' buffers without being captured.
WAYS: dict[str, dict[str, Any]] = {
    "compiled": {"paged": True, "graphs": True, "compile": True},
    "graphs": {"paged": True, "graphs": True},
    "eager": {"paged": True, "graphs": False},
}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Default: a temporary one.")
@click.option("--tiny", is_flag=True, help="A tiny shape, to try it out.")
@click.option("--way", "asked", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
def main(folder: Path | None, tiny: bool, asked: tuple[str, ...]) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        raise click.UsageError("no GPU here; `--tiny` tries it out on the CPU")
    name: Any = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}")
    began = perf_counter()
    with tempfile.TemporaryDirectory() as made:
        ready = make(folder or Path(made), TINY if tiny else SHAPE, device)
        weights = sum(file.stat().st_size for file in ready.glob("*.safetensors"))
        print(f"weights: {weights / 1e9:.2f} GB, ready after {perf_counter() - began:.0f} s")
        columns = {}
        for way, options in WAYS.items():
            if asked and way not in asked:
                continue
            print(f"{way}, after {perf_counter() - began:.0f} s", flush=True)
            columns[way] = asyncio.run(measure(ready, device, weights, tiny=tiny, **options))
            gc.collect()  # weights and pages are in cycles: the next way needs their memory
            if device == "cuda":
                torch.cuda.empty_cache()
    print(" " * 40, *(f"{way:>16}" for way in columns))
    for key in next(iter(columns.values())):
        print(f"{key:40}", *(f"{found[key]:16.4g}" for found in columns.values()))


if __name__ == "__main__":
    main()
