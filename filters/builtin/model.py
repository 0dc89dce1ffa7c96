"""Texts -> calibrated scores, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from filters.builtin.graph import read
from filters.builtin.scorer import WEIGHTS
from filters.builtin.text import Reader
from filters.errors import FilterConfigError

#: Tokens of a batch at most. What passes between layers then stays in a core's cache.
BATCH = 512


class Model:
    """folder: `classifier.safetensors` and `vocabulary.txt`, as `gardefou train` writes them.

    threads: batches that are computed at once, each on one core. A text's scores are the same to
    the last digit, alone and in any company. Raises FilterConfigError.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        model, about = read(folder / WEIGHTS)
        self._longest: int = about["shape"]["positions"]
        self._reader = _reader(folder / "vocabulary.txt", about["shape"]["vocabulary"])
        self._session = _session(model.SerializeToString())
        self._pool = ThreadPoolExecutor(threads, "builtin-classifier")

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()

    def score(self, texts: Sequence[str]) -> list[list[float]]:
        """One row of scores per text."""
        parts: list[list[int]] = []
        owners: list[int] = []
        for place, ids in enumerate(self._reader(texts)):
            for part in self._parts(ids):
                parts.append(part)
                owners.append(place)
        best: list[list[float]] = [[] for _ in texts]
        batches = list(_batches([len(part) for part in parts]))
        given = [np.array([parts[place] for place in places]) for places in batches]
        # A lone batch stays on this thread, which spares handing it over.
        computed = self._pool.map(self._run, given) if len(given) > 1 else map(self._run, given)
        for places, rows in zip(batches, computed, strict=True):
            for place, row in zip(places, rows, strict=True):
                owner = owners[place]
                best[owner] = [*map(max, best[owner], row)] if best[owner] else row
        return best

    def _run(self, ids: np.ndarray[Any, Any]) -> list[list[float]]:
        (scores,) = self._session.run(None, {"ids": ids})
        rows: list[list[float]] = scores.tolist()
        return rows

    def _parts(self, ids: list[int]) -> Iterator[list[int]]:
        """Text past the network's length in overlapping parts, each between start and end."""
        inner, room = ids[1:-1], self._longest - 2
        step = room * 3 // 4
        for start in range(0, max(1, len(inner) - room + step), step):
            yield [Reader.START, *inner[start : start + room], Reader.END]


def _reader(path: Path, pieces: int) -> Reader:
    try:
        reader = Reader.from_file(path, longest=100_000)
    except (OSError, UnicodeDecodeError) as error:
        raise FilterConfigError(f"{path}: {error}") from error
    found = len(set(reader.vocabulary))
    if found != pieces or len(reader.vocabulary) != pieces:
        raise FilterConfigError(f"{path}: {found} word pieces, where the weights have {pieces}")
    if tuple(reader.vocabulary[: len(Reader.SPECIALS)]) != Reader.SPECIALS:
        raise FilterConfigError(f"{path}: does not begin with {', '.join(Reader.SPECIALS)}")
    return reader


def _session(model: bytes) -> Any:
    options = SessionOptions()
    # Sharing one batch out among threads costs more than it saves at a sentence's size.
    options.intra_op_num_threads = 1
    # The sum and the norm behind it in one step take five times as long as one by one (128 tokens).
    return InferenceSession(
        *(model, options),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )


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
