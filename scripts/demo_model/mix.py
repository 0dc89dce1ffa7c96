"""The endless stream of training examples, and batches of them cut to equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch
from torch import Tensor

from scripts.demo_model import smalltalk
from scripts.demo_model.conversation import Example, Turn
from scripts.demo_model.copying import Copying, language
from scripts.demo_model.corpus import Corpus
from scripts.demo_model.tokens import Encoder
from scripts.demo_model.translating import Translating

WARM_UP = 0.12  # of the budget: mostly copying of short texts, so that it emerges early
FULL_LENGTH = 0.45  # of the budget: from here on texts to copy are as long as they get
LONGEST_COPY = 44  # words
LONGEST = 320  # tokens; examples above it are dropped

# Shares of the examples while warming up, and after. A change of mix is a change here.
_EARLY = {"copy": 0.75, "translate": 0.20, "talk": 0.05}
_LATE = {"copy": 0.30, "translate": 0.57, "talk": 0.08, "dialogue": 0.03, "novel": 0.02}

Encoded = tuple[list[int], list[bool]]


class Mix:
    """Draws examples by their shares at `progress` (0..1, how much of the budget is spent)."""

    def __init__(self, corpus: Corpus, encoder: Encoder) -> None:
        self._corpus = corpus
        self._encoder = encoder
        self._translating = Translating(corpus.pairs, corpus.phrases)
        self._plain = [
            i
            for i in range(encoder.size)
            if (t := encoder.decode([i])).isprintable() and "�" not in t
        ]
        self._copying = Copying(corpus, self.random_tokens)

    def random_tokens(self, rng: Random, n: int) -> str:
        """Text of about `n` vocabulary entries, all equally likely."""
        text = self._encoder.decode(rng.choices(self._plain, k=n))
        # A control token written out would be read back as one.
        return text.replace("[", "").replace("<", "")

    def example(self, rng: Random, progress: float) -> Example:
        """One conversation, some with a system text, some of two turns of different kinds."""
        shares = _EARLY if progress < WARM_UP else _LATE
        kind = rng.choices(list(shares), list(shares.values()))[0]
        example = self._of_kind(rng, kind, progress)
        if kind in ("dialogue", "novel") or progress < WARM_UP:
            return example
        turns = example.turns
        if rng.random() < 0.08:
            first = self._of_kind(rng, rng.choice(("copy", "translate", "talk")), 0.2)
            turns = (*first.turns, *turns)
        system = rng.choice(smalltalk.SYSTEM) if rng.random() < 0.07 else ""
        return Example(example.kind, turns, system)

    def _of_kind(self, rng: Random, kind: str, progress: float) -> Example:
        if kind == "copy":
            grown = min(1.0, progress / FULL_LENGTH)
            return self._copying.example(rng, 6 + round((LONGEST_COPY - 6) * grown * rng.random()))
        if kind == "translate":
            return self._translating.example(rng)
        if kind == "talk":
            return smalltalk.example(rng)
        if kind == "dialogue":
            turns = rng.choice(self._corpus.dialogues)
            at = rng.randrange(max(1, len(turns) - 1))
            return Example("dialogue", turns[at : at + rng.randint(1, 3)])
        novels = self._corpus.novels_en if language(rng) == "en" else self._corpus.novels_fr
        words = rng.choice(novels).split()
        at = rng.randrange(max(1, len(words) - 60))
        return Example("novel", (Turn("", " ".join(words[at : at + 60])),))

    def batches(
        self, rng: Random, progress: float, *, tokens: int, pool: int = 24
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """About `pool` batches (ids, labels), each [rows, length] with about `tokens` ids.

        Examples of like length share a batch, so that padding, at the right, is next to none. A
        label is the id to predict at that place, or -100 where there is no loss.
        """
        drawn: list[Encoded] = []
        size = 0
        while size < pool * tokens:
            cut = rng.random() if rng.random() < 0.03 else None
            encoded = self._encoder.example(self.example(rng, progress), cut)
            if len(encoded[0]) <= LONGEST:
                drawn.append(encoded)
                size += len(encoded[0])
        drawn.sort(key=lambda e: len(e[0]))
        batches, rows = [], []
        for encoded in drawn:
            rows.append(encoded)
            if len(rows) * len(encoded[0]) >= tokens:
                batches.append(rows)
                rows = []
        if len(rows) > 4:
            batches.append(rows)
        rng.shuffle(batches)
        for batch in batches:
            yield collate(batch)


def collate(rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Pads rows at the right and shifts labels to the place that predicts them.

    Returns:
        ids and labels, both [rows, longest - 1], int64.
    """
    longest = max(len(ids) for ids, _ in rows)
    ids_out = torch.zeros(len(rows), longest - 1, dtype=torch.long)
    labels = torch.full((len(rows), longest - 1), -100, dtype=torch.long)
    for i, (ids, mask) in enumerate(rows):
        row = torch.tensor(ids)
        ids_out[i, : len(ids) - 1] = row[:-1]
        wanted = torch.tensor(mask[1:])
        labels[i, : len(ids) - 1][wanted] = row[1:][wanted]
    return ids_out, labels
