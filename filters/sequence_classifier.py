"""A transformers sequence classifier as a `Scorer`. Imports torch: only where one is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from filters.errors import FilterConfigError


class SequenceClassifier:
    """Scores texts with a hub id or folder.

    labels: the model's labels -> categories; of labels with one category the highest counts, and
    labels left out are not reported. activation: softmax for one label of many, sigmoid for any.
    Raises FilterConfigError if the model cannot be loaded or lacks a label.
    """

    def __init__(
        self,
        model: str,
        labels: Mapping[str, str],
        *,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        device: str | None = None,
    ) -> None:
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise FilterConfigError(f"classifier {model!r} cannot be loaded: {error}") from error
        self._model.eval().to(self._device)
        known = {str(name): int(place) for name, place in self._model.config.label2id.items()}
        if missing := sorted(set(labels) - set(known)):
            have = ", ".join(known)
            raise FilterConfigError(f"classifier {model!r} has no label {missing[0]!r}: {have}")
        self._places: dict[str, list[int]] = {}
        for label, category in labels.items():
            self._places.setdefault(category, []).append(known[label])
        self._activation = activation
        # One thread: the event loop never waits for a forward pass, and passes do not compete.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classifier")

    @property
    def categories(self) -> Sequence[str]:
        return tuple(self._places)

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """One text at a time: padding to a neighbour's length would change the last digits."""
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._thread, self._score, text) for text in texts]

    def _score(self, text: str) -> Mapping[str, float]:
        limit = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        # Text past the model's length is scored in overlapping pieces, never dropped.
        encoded = self._tokenizer(
            text,
            truncation=True,
            max_length=limit,
            stride=limit // 8,
            return_overflowing_tokens=True,
        )
        best: dict[str, float] = {}
        for ids in encoded["input_ids"]:
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([ids], device=self._device)).logits[0]
            logits = logits.float()
            scores = logits.softmax(-1) if self._activation == "softmax" else logits.sigmoid()
            for category, places in self._places.items():
                top = max(float(scores[place]) for place in places)
                best[category] = max(best.get(category, 0.0), top)
        return best
