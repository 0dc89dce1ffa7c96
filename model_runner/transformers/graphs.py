"""CUDA graphs: kernels of a run, launched together again on the same memory."""

from __future__ import annotations

import gc
from typing import Any

import torch

from model_runner.transformers.decode import Made, Run

WARM = 2  # runs before a capture: libraries set themselves up, which no graph may hold


class GraphCapture:
    """A `Capture`. All graphs share one pool of memory, since only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None  # the same for all, or the pool is not shared

    def __call__(self, run: Run) -> Run:
        """Raises RuntimeError if something in it cannot be captured."""
        with torch.cuda.device(self._device):
            if self._side is None:
                self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side = self._side
            current = torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM):
                    run()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # `torch.cuda.graph` would collect garbage first, a second where much is loaded; here
            # none is collected, since a graph that went while one is captured would break it
            side.synchronize()
            gc.disable()
            try:
                with torch.cuda.stream(side):
                    # other threads (a classifier on the same GPU) may go on meanwhile
                    graph.capture_begin(self._pool, capture_error_mode="thread_local")
                    try:
                        made = run()
                    finally:
                        graph.capture_end()
            finally:
                gc.enable()
            self._pool = self._pool or graph.pool()

        def replay() -> Made:
            graph.replay()
            return made

        return replay
