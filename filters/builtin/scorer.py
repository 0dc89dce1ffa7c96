"""The built-in classifier as filters take it. Its first text loads torch and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filters.builtin.categories import CATEGORIES
from filters.errors import FilterConfigError

#: The name that policies call it by.
NAME = "builtin"
FOLDER = Path(__file__).parent / "weights"
#: The file by which a folder is known to hold a classifier.
WEIGHTS = "classifier.safetensors"
_NEEDED = ("torch", "tokenizers", "safetensors")


def missing() -> str | None:
    """Why the built-in classifier cannot run here, or None."""
    if lacking := [name for name in _NEEDED if find_spec(name) is None]:
        return (
            f"the built-in classifier needs {', '.join(lacking)}: install gardefou[local]"
            " (the policy `patterns` does without)"
        )
    if not (FOLDER / WEIGHTS).exists():
        return f"the built-in classifier's weights are not in {FOLDER}"
    return None


class BuiltinModel:
    """A `TextModel` of the built-in categories; 0.5 is the threshold that its card recommends.

    A text of more tokens than the network reads is scored in overlapping parts, and the highest
    score of each category counts. Raises FilterConfigError if it cannot run here.
    """

    categories: Sequence[str] = CATEGORIES

    def __init__(self, folder: Path = FOLDER) -> None:
        if folder == FOLDER and (reason := missing()):
            raise FilterConfigError(reason)
        self._folder = folder

    @cached_property
    def _model(self) -> Any:
        return import_module("filters.builtin.model").Model(self._folder)

    def load(self) -> None:
        """Load now what else the first text would wait for."""
        self.compute([""])

    def compute(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Scores of each text. Blocks."""
        rows = self._model.score(texts)
        return [dict(zip(CATEGORIES, row, strict=True)) for row in rows]
