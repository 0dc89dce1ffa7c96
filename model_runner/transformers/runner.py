"""The `ModelRunner` of this process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Labels
from dataclasses import replace
from functools import partial
from pathlib import Path

from model_runner.errors import Unavailable
from model_runner.steering import instructed
from model_runner.transformers.admission import (
    check_length,
    check_request,
    check_room,
    check_size,
    room,
)
from model_runner.transformers.calls import CallReader, offered
from model_runner.transformers.choice import Choice
from model_runner.transformers.codec import check_text
from model_runner.transformers.decode import decoder
from model_runner.transformers.digest import digest
from model_runner.transformers.engine import Engine, Limits
from model_runner.transformers.generation import LocalGeneration
from model_runner.transformers.loading import Loaded, Progress, load
from model_runner.transformers.outlet import Outlet
from model_runner.transformers.packed import pack
from model_runner.transformers.prefix import Owner
from model_runner.transformers.probe import Probe, Probes
from model_runner.transformers.reading import PromptReader
from model_runner.transformers.sequence import Prompt, Sequence, Spec
from model_runner.transformers.text import PRIMER
from model_runner.types import (
    Capabilities,
    GenerateRequest,
    Generation,
    Health,
    ModelInfo,
    Sampling,
)


def _silent(_message: str) -> None:
    pass


class TransformersRunner:
    """Any causal language model that transformers loads, Mistral and Mixtral above all.

    model: a folder or a hub id. name: what clients call it; default its last part.
    device, dtype: torch's names; default the GPU in bfloat16 if there is one, else CPU in float32.
    concurrency, queue, read, stall, judges: see `Limits`. memory: bytes that keys and values may
    take (see `loading.load`), those of prefixes that are kept included. reserve: positions kept
    free for a judge. least: tokens of one prompt and answer for which there must be memory, if the
    model reads that many; else it does not start.
    paged: keys and values in pages; default on a GPU. graphs: CUDA graphs of steps that only write;
    default on a GPU. compile: those steps through torch.compile.
    probes: files of heads on hidden states, by name; see `probe.Probe`.
    progress: told what loading is at; called from another thread.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        concurrency: int = Limits.concurrency,
        queue: int = Limits.queue,
        read: int | None = Limits.read,
        stall: float = Limits.stall,
        judges: int = Limits.judges,
        memory: int | None = None,
        reserve: int = 0,
        least: int = 1,
        paged: bool | None = None,
        graphs: bool | None = None,
        compile: bool = False,  # noqa: A002 - as transformers and torch call it
        probes: Mapping[str, Path] | None = None,
        progress: Progress = _silent,
    ) -> None:
        self._source = model
        self._device = device
        self._dtype = dtype
        self._limits = Limits(concurrency, queue, read, stall, judges)
        self._memory = memory
        self._reserve = reserve
        self._least = least
        self._paged = paged
        self._graphs = graphs
        self._compile = compile
        self._probes = dict(probes or {})
        self._progress = progress
        self._reader: PromptReader
        self._longest = 0
        self._engine: Engine | None = None
        self._loaded: Loaded | None = None
        self._info = ModelInfo(name or Path(model).name)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            score=True,
            rewind=True,
            logprobs=True,
            token_prompts=True,
            text_prompts=True,
            n=True,
            seed=True,
            top_k=True,
            min_p=True,
            repetition_penalty=True,
            logit_bias=True,
            tools=self._loaded is not None and self._loaded.prompts.calls is not None,
            continues=True,
            bans=True,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def start(self) -> None:
        began = time.monotonic()
        loaded = await asyncio.to_thread(
            load,
            self._source,
            device=self._device,
            dtype=self._dtype,
            memory=self._memory,
            paged=self._paged,
            progress=self._progress,
        )
        check_room(loaded.model, self._reserve, self._least)
        self._info = ModelInfo(
            self._info.id,
            loaded.model.positions,
            int(time.time()),
            digest=await asyncio.to_thread(digest, loaded.model.module, loaded.codec.decoder),
        )
        if self._probes:
            probes = {name: Probe.load(path) for name, path in self._probes.items()}
            module = loaded.model.module
            model = replace(loaded.model, probes=Probes(module, self._info.digest, probes))
            loaded = replace(loaded, model=model)
        if loaded.model.device.type == "cpu":
            await asyncio.to_thread(pack, loaded.model.module)  # not before the digest is taken
        steps = decoder(
            loaded.model.module,
            loaded.model.store,
            rows=self._limits.concurrency,
            positions=loaded.model.positions,
            probes=loaded.model.probes,
            graphs=self._graphs,
            compiled=self._compile,
        )
        loaded = replace(loaded, model=replace(loaded.model, decoder=steps))
        self._longest = await asyncio.to_thread(lambda: loaded.codec.longest)
        self._reader = PromptReader(loaded.codec, loaded.prompts, loaded.model.vocabulary)
        self._loaded = loaded
        self._engine = Engine(loaded.model, self._limits)
        self._engine.start()
        if steps is not None:
            self._progress("capturing steps")
            await self._engine.call(steps.prepare)
        self._progress(f"ready after {time.monotonic() - began:.1f} s")

    async def close(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop)
        self._loaded = None

    def health(self) -> Health:
        if self._engine is None or self._loaded is None:
            return Health(False, "no model is loaded")
        return self._engine.health()

    def stats(self) -> Mapping[str, float]:
        """Counts and sizes of the engine (`Engine.stats`), for metrics; none before it runs."""
        return {} if self._engine is None else self._engine.stats()

    def count(self, request: GenerateRequest) -> int:
        loaded, _ = self._ready()
        positions = loaded.model.positions - self._reserve
        check_size(request, positions, self._longest)
        length = self._reader.count(request) + len(self._begun(request))
        check_length(request, length, positions)
        return length

    async def open(self, request: GenerateRequest) -> list[Generation]:
        loaded, engine = self._ready()
        check_request(request, self.capabilities, loaded.model.vocabulary)
        ids = [*await self._read(request), *self._begun(request)]
        limit = room(request, len(ids), loaded.model.positions - self._reserve)
        engine.check_size(len(ids) + limit)
        seed = request.sampling.seed
        seed = secrets.randbits(63) if seed is None else seed
        primer = ids[-2 * PRIMER :] if _continues(request) else ()
        specs = [Spec(request.sampling, limit, seed, n) for n in range(request.sampling.n)]
        choices = self._choices(request, Prompt(ids, primer), specs)
        engine.submit(choices)
        return [self._generation(request, choice, self._calls(request)) for choice in choices]

    def encode(self, text: str) -> tuple[int, ...]:
        check_text(text, "text")
        loaded, _ = self._ready()
        return tuple(loaded.codec.extend(text)) if text else ()

    def control(self, name: str) -> int | None:
        """The id of a control token; None if the model has no such token."""
        return self._ready()[0].codec.control.get(name)

    async def judge(
        self, request: GenerateRequest, suffix: str, labels: Labels[str]
    ) -> Mapping[str, float]:
        _, engine = self._ready()
        with engine.judging():
            return await self._judged(replace(request, sampling=Sampling()), suffix, labels)

    async def _judged(
        self, request: GenerateRequest, suffix: str, labels: Labels[str]
    ) -> Mapping[str, float]:
        loaded, _ = self._ready()
        check_request(request, self.capabilities, loaded.model.vocabulary)
        ids = await self._read(request)
        room(request, len(ids), loaded.model.positions)
        # Never submitted, it writes nothing; once closed, what was read is a prefix for the answer.
        (choice,) = self._choices(request, Prompt(ids), [Spec(request.sampling, 1, 0, 0)])
        choice.queued = False
        generation = self._generation(request, choice)
        try:
            return await generation.score(suffix, labels, at=0)
        finally:
            await generation.close()

    async def _read(self, request: GenerateRequest) -> list[int]:
        """In a thread, unless it was counted: long texts take long to encode."""
        kept = self._reader.kept(request)
        return await asyncio.to_thread(self._reader.read, request) if kept is None else kept

    def _choices(
        self, request: GenerateRequest, prompt: Prompt, specs: Iterable[Spec]
    ) -> list[Choice]:
        loaded, _ = self._ready()
        loop = asyncio.get_running_loop()
        owner, positions = Owner(request.tenant), loaded.model.positions
        return [
            Choice(
                Sequence(loaded.codec, prompt, spec, positions=positions),
                Outlet(loop),
                owner,
                request.key,
            )
            for spec in specs
        ]

    def _generation(
        self, request: GenerateRequest, choice: Choice, calls: CallReader | None = None
    ) -> LocalGeneration:
        loaded, engine = self._ready()
        reread = partial(self._reread, request)
        return LocalGeneration(engine, loaded.codec, choice, reread, calls)

    def _reread(self, request: GenerateRequest, note: str) -> list[int] | None:
        if request.messages is None:
            return None
        return [*self._reader.read(instructed(request, note)), *self._begun(request)]

    def _begun(self, request: GenerateRequest) -> list[int]:
        """What stands behind the prompt where the answer has to be a call."""
        calls = self._ready()[0].prompts.calls
        return [calls.begin] if calls and offered(request)[1] else []

    def _calls(self, request: GenerateRequest) -> CallReader | None:
        calls = self._ready()[0].prompts.calls
        tools, forced = offered(request)
        return CallReader(calls, forced=forced) if calls and tools else None

    def _ready(self) -> tuple[Loaded, Engine]:
        if self._loaded is None or self._engine is None:
            raise Unavailable("no model is loaded")
        return self._loaded, self._engine


def _continues(request: GenerateRequest) -> bool:
    """Whether the answer goes on in the middle of a text."""
    return request.messages is None or request.messages[-1].role == "assistant"
