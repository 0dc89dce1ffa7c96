"""Steps in which everybody writes one token, through buffers that stay where they are.

A CUDA graph replays kernels on fixed addresses, shapes and host values. So sizes come in buckets
(sequences, and the longest of them), each with tensors of its own, which a step fills and runs;
what is left over is padding, which reads and writes a spare page. Steps that also read prompts or
scores are run flat, by `Model.forward`.

The upper bound of lengths is part of a bucket since the kernel's launch depends on it: replayed
with a larger one than it was captured with, it would leave keys out.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from subprocess import SubprocessError
from typing import Any

import numpy as np
import torch

from model_runner.errors import Unavailable
from model_runner.transformers.batch import Segment, Store
from model_runner.transformers.paged_attention import PAGE, PagedStep
from model_runner.transformers.pages import PagedRow, PagedStore
from model_runner.transformers.probe import Probes

Made = tuple[torch.Tensor, dict[int, torch.Tensor]]  # logits, and states that probes read
Run = Callable[[], Made]
Capture = Callable[[Run], Run]

EARLY = 2  # of the bounds of lengths, buckets of the first so many are captured at the start

#: What compilers and captures raise: those that torch.compile calls are programs of their own.
FAULTS = (RuntimeError, OSError, SubprocessError)

logger = logging.getLogger(__name__)


def sizes() -> Iterator[int]:
    """1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, ..."""
    size = 1
    while True:
        yield size
        if size >= 16:
            yield size * 3 // 2
        size *= 2


class Inputs:
    """The tensors of one bucket. On a GPU they are filled from pinned memory, in two copies."""

    def __init__(self, store: PagedStore, rows: int, span: int) -> None:
        width = -(-span // PAGE)
        self._store, self._rows = store, rows
        pinned = store.device.type == "cuda"
        self._host = [
            torch.zeros((3, rows), dtype=torch.long, pin_memory=pinned),
            torch.zeros(rows * (1 + width), dtype=torch.int32, pin_memory=pinned),
        ]
        longs, ints = self._device = [host.to(store.device, copy=True) for host in self._host]
        self._longs = self._host[0].numpy()
        self._lengths, self._table = np.split(self._host[1].numpy(), [rows])
        self._table = self._table.reshape(rows, width)
        self.ids, self.positions = longs[0:1], longs[1:2]
        self.step = PagedStep(
            store,
            slots=longs[2],
            ends=torch.arange(rows + 1, dtype=torch.int32, device=store.device),
            lengths=ints[:rows],
            table=ints[rows:].view(rows, width),
            most=1,
            longest=span,
            static=True,
        )
        self.fill([])

    def fill(self, segments: Sequence[Segment]) -> None:
        """With one token each. The last use of what was there must be over."""
        for at, segment in enumerate(segments):
            assert isinstance(segment.row, PagedRow)  # noqa: S101
            pages, place = segment.row.pages, segment.start
            self._longs[:, at] = segment.ids[0], place, pages[place // PAGE] * PAGE + place % PAGE
            self._lengths[at] = place + 1
            used = place // PAGE + 1
            self._table[at, :used] = pages[:used]
        spare = slice(len(segments), self._rows)
        self._longs[:2, spare] = 0
        self._longs[2, spare] = self._store.spare * PAGE
        self._lengths[spare] = 1
        self._table[spare, 0] = self._store.spare
        for device, host in zip(self._device, self._host, strict=True):
            device.copy_(host, non_blocking=True)


class Decoder:
    """Of the engine thread only. rows: most sequences of a step. positions: most tokens of one.

    capture: makes a run that can be replayed; see `graphs.GraphCapture`. compiled: the module once
    more, made quicker, and tried first. What fails is told in the log and not tried again; without
    either, buckets that are not captured by then are run flat.
    """

    def __init__(
        self,
        module: Any,
        store: PagedStore,
        capture: Capture,
        *,
        rows: int,
        positions: int,
        probes: Probes | None = None,
        compiled: Any | None = None,
    ) -> None:
        self._store, self._probes, self._capture = store, probes, capture
        self._modules = [module] if compiled is None else [compiled, module]
        self.rows = [*takewhile(lambda size: size < rows, sizes())]
        self.rows.append(next(size for size in sizes() if size >= rows))
        whole = -(-positions // PAGE) * PAGE
        least, times = store.kernels.spans
        self.spans = [least]
        while self.spans[-1] < whole:
            self.spans.append(self.spans[-1] * times)
        self.spans[-1] = whole
        self._runs: dict[tuple[int, int], tuple[Inputs, Run]] = {}

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture what is likely to be wanted first; larger ones first, since they share memory.

        What is captured, and above all compiled, while answers are written stops them all.
        """
        for span in self.spans[:EARLY]:
            for rows in reversed(self.rows):
                self._run_of(rows, span)

    @torch.inference_mode()
    def run(self, segments: Sequence[Segment]) -> torch.Tensor | None:
        """Logits (segments, vocabulary), float32; None if this step must be run flat."""
        if len(segments) > self.rows[-1] or not all(map(_writes, segments)):
            return None
        longest = max(segment.start for segment in segments) + 1
        rows = next(size for size in self.rows if size >= len(segments))
        found = self._run_of(rows, next(span for span in self.spans if span >= longest))
        if found is None:
            return None
        self._store.release()
        inputs, run = found
        inputs.fill(segments)
        logits, states = run()
        if self._probes is not None:
            self._probes.give(states)
        return logits[: len(segments)].to(torch.float32, copy=True)  # the next step writes there

    def _run_of(self, rows: int, span: int) -> tuple[Inputs, Run] | None:
        while (rows, span) not in self._runs and self._modules:
            inputs = Inputs(self._store, rows, span)
            try:
                run = self._capture(partial(self._pass, self._modules[0], inputs))
            except FAULTS as error:
                failed = self._modules.pop(0)
                logger.warning(
                    "no %s of %s for %d streams, nor any further one: %s",
                    "compiled step" if self._modules else "CUDA graph",
                    type(failed).__name__,
                    rows,
                    str(error).partition("\n")[0],
                )
            else:
                self._runs[rows, span] = inputs, run
        return self._runs.get((rows, span))

    def _pass(self, module: Any, inputs: Inputs) -> Made:
        made = module(
            input_ids=inputs.ids,
            position_ids=inputs.positions,
            use_cache=False,
            engine_step=inputs.step,
        )
        return made.logits[0], {} if self._probes is None else self._probes.take()


def _writes(segment: Segment) -> bool:
    return segment.keep and segment.count == 1 and segment.outputs == (0,)


def eagerly(run: Run) -> Run:
    """Capture nothing: run it anew each time, as where there is no GPU."""
    return run


def decoder(
    module: Any,
    store: Store,
    *,
    rows: int,
    positions: int,
    probes: Probes | None = None,
    graphs: bool | None = None,
    compiled: bool = False,
) -> Decoder | None:
    """graphs: default on a GPU. Elsewhere such steps run through the same buffers, eagerly.

    compiled: the module goes through torch.compile for these steps.
    Raises Unavailable if that or graphs are asked for, but keys and values do not stand in pages.
    """
    if not isinstance(store, PagedStore):
        if graphs or compiled:
            raise Unavailable("CUDA graphs and compiled steps need keys and values in pages")
        return None
    cuda = store.device.type == "cuda"
    graphs = cuda if graphs is None else graphs
    if graphs and cuda and _loops_over_experts(module):
        logger.warning(
            "no CUDA graphs of %s: its experts are chosen by the host", type(module).__name__
        )
        graphs = False
    if not graphs and not compiled:
        return None
    capture: Capture = eagerly
    if graphs and cuda:
        from model_runner.transformers.graphs import GraphCapture

        capture = GraphCapture(store.device)
    quick: Any = None
    if compiled:
        warnings.filterwarnings("ignore", "TensorFloat32", module="torch._inductor")
        # without tuning: to time a kernel that writes into the pages, a tuner copies all of them
        quick = torch.compile(module)
    return Decoder(
        module, store, capture, rows=rows, positions=positions, probes=probes, compiled=quick
    )


def _loops_over_experts(module: Any) -> bool:
    """Whether a mixture of experts asks the GPU which of them to run (transformers' "eager" way).

    "grouped_mm" and "batched_mm" decide on the device.
    """
    way = getattr(module.config.get_text_config(), "_experts_implementation", None)
    experts = any("Experts" in type(part).__name__ for part in module.modules())
    return experts and way not in ("grouped_mm", "batched_mm")
