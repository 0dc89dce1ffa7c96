"""The built-in classifier as filters take it. Its first text loads the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from filters.batching import Batcher
from filters.builtin.categories import CATEGORIES

#: The name that policies call it by.
NAME = "builtin"
FOLDER = Path(__file__).parent / "weights"
#: The file by which a folder is known to hold a classifier.
WEIGHTS = "classifier.safetensors"


def batched(model: BuiltinModel, *, linger: float = 0.0, **options: Any) -> Batcher:
    """The `Scorer` of a model; options as of `Batcher`, which are of use for it.

    Nothing waits for company, unless told to: it would save nothing (`benchmarks/classifier.py`).
    """
    return Batcher(model, noise=0.0, characters=model.characters, linger=linger, **options)


def _cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BuiltinModel:
    """A `TextModel` of the built-in categories; 0.5 is the threshold that its card recommends.

    A text of more tokens than the network reads is scored in overlapping parts, and the highest
    score of each category counts. Its first text raises FilterConfigError if the folder is none.
    threads: cores that it uses at once; None: half of them, and four at most, which is enough for
    more streams than one process serves.
    """

    categories: Sequence[str] = CATEGORIES

    def __init__(self, folder: Path = FOLDER, *, threads: int | None = None) -> None:
        self._folder = folder
        self.threads = threads or max(1, min(4, _cores() // 2))

    @cached_property
    def _model(self) -> Any:
        return import_module("filters.builtin.model").Model(self._folder, threads=self.threads)

    @property
    def characters(self) -> int:
        """Of a batch, so that it is soon done: each core one of the model's own batches."""
        return 2048 * self.threads

    def load(self) -> None:
        """Load now what else the first text would wait for."""
        self.compute([""])

    def close(self) -> None:
        """End its threads. Safe again; another text loads it anew."""
        if (model := self.__dict__.pop("_model", None)) is not None:
            model.close()

    def compute(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Scores of each text. Blocks."""
        rows = self._model.score(texts)
        return [dict(zip(CATEGORIES, row, strict=True)) for row in rows]
