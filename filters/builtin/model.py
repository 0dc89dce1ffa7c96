"""Texts -> calibrated scores, with ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from filters.builtin.graph import read
from filters.builtin.scorer import WEIGHTS
from filters.builtin.text import Reader

#: Tokens of a batch at most. What passes between layers then stays in a core's cache.
BATCH = 512


class Model:
    """folder: `classifier.safetensors` and `vocabulary.txt`, as `gardefou train` writes them.

    threads: that one batch is computed on; 0: one for each core. A text's scores are the same to
    the last digit on any number, alone and in company.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        model, about = read(folder / WEIGHTS)
        self._longest: int = about["shape"]["positions"]
        self._reader = Reader.from_file(folder / "vocabulary.txt", longest=100_000)
        self._session = _session(
            model.SerializeToString(), _threads() if threads is None else threads
        )

    def score(self, texts: Sequence[str]) -> list[list[float]]:
        """One row of scores per text."""
        parts: list[list[int]] = []
        owners: list[int] = []
        for place, ids in enumerate(self._reader(texts)):
            for part in self._parts(ids):
                parts.append(part)
                owners.append(place)
        best: list[list[float]] = [[] for _ in texts]
        for places in _batches([len(part) for part in parts]):
            (rows,) = self._session.run(None, {"ids": np.array([parts[place] for place in places])})
            for place, row in zip(places, rows.tolist(), strict=True):
                owner = owners[place]
                best[owner] = [*map(max, best[owner], row)] if best[owner] else row
        return best

    def _parts(self, ids: list[int]) -> Iterator[list[int]]:
        """Text past the network's length in overlapping parts, each between start and end."""
        inner, room = ids[1:-1], self._longest - 2
        step = room * 3 // 4
        for start in range(0, max(1, len(inner) - room + step), step):
            yield [Reader.START, *inner[start : start + room], Reader.END]


def _session(model: bytes, threads: int) -> Any:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait do so asleep: the event loop and the engine want those cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The sum and the norm behind it in one step take five times as long as one by one (128 tokens).
    return InferenceSession(
        *(model, options),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def _threads() -> int:
    """As torch and the like count them: what OMP_NUM_THREADS says, else all cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts of one length, which need no padding.

    Company saves little (a text of 28 tokens 4.1 ms alone, 3.1 ms in company), so that none is
    sought among other lengths.
    """
    sizes: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        sizes.setdefault(length, []).append(place)
    for size, places in sizes.items():
        most = max(1, BATCH // size)
        for start in range(0, len(places), most):
            yield places[start : start + most]
