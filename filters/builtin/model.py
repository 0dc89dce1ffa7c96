"""Texts -> calibrated scores, with torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from filters.builtin.scorer import WEIGHTS
from filters.builtin.text import Reader
from filters.builtin.weights import load

#: A text is padded to a multiple of this, alone as in company, and joins only texts of its size: a
#: difference in a float's last digit could tip the 8-bit rounding behind it. 128 texts of 8 to 64
#: tokens took a tenth longer in steps of 16, for the padding, and half as long again in steps of 1,
#: where few find company of their size.
STEP = 4
#: Tokens of a batch at most. What passes between layers then stays in a core's cache: texts of 12
#: tokens took 2.1 ms each in batches of 512 tokens and 2.7 ms in batches of 4,096 (7 ms alone).
BATCH = 512


class Model:
    """folder: `classifier.safetensors` and `vocabulary.txt`, as `gardefou train` writes them."""

    def __init__(self, folder: Path) -> None:
        self._network, about = load(folder / WEIGHTS)
        self._longest = self._network.shape.positions
        self._reader = Reader.from_file(folder / "vocabulary.txt", longest=100_000)
        self._slope = torch.tensor(about["calibration"]["slope"])
        self._shift = torch.tensor(about["calibration"]["shift"])

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[list[float]]:
        """One row of scores per text."""
        parts: list[list[int]] = []
        owners: list[int] = []
        for place, ids in enumerate(self._reader(texts)):
            for part in self._parts(ids):
                parts.append(part)
                owners.append(place)
        best = torch.zeros(len(texts), len(self._slope))
        for places in _batches([len(part) for part in parts]):
            passed = self._pass([parts[place] for place in places])
            for place, row in zip(places, passed, strict=True):
                best[owners[place]] = torch.maximum(best[owners[place]], row)
        scores: list[list[float]] = best.tolist()
        return scores

    def _parts(self, ids: list[int]) -> Iterator[list[int]]:
        """Text past the network's length in overlapping parts, each between start and end."""
        inner, room = ids[1:-1], self._longest - 2
        step = room * 3 // 4
        for start in range(0, max(1, len(inner) - room + step), step):
            yield [Reader.START, *inner[start : start + room], Reader.END]

    def _pass(self, rows: Sequence[Sequence[int]]) -> Tensor:
        size = _padded(max(map(len, rows)))
        ids = torch.full((len(rows), size), Reader.PAD)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        mask = torch.arange(size) < torch.tensor([len(row) for row in rows])[:, None]
        return torch.sigmoid(self._network(ids, mask) * self._slope + self._shift)


def _padded(length: int) -> int:
    return -(-length // STEP) * STEP


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts of one padded length."""
    sizes: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        sizes.setdefault(_padded(length), []).append(place)
    for size, places in sizes.items():
        most = max(1, BATCH // size)
        for start in range(0, len(places), most):
            yield places[start : start + most]
