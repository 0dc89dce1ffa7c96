"""Teaches the encoder French: each French sentence gets the state of its English translation.

Reimers & Gurevych 2020 (multilingual knowledge distillation), with the embeddings of French words
begun as those of their likeliest English words, so that the encoder reads French word for word from
the first step on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from filters.builtin.training.encoder import Network
from filters.builtin.training.vocabulary import bert


def begin_embeddings(
    vocabulary: Sequence[str],
    old: Sequence[str],
    matrix: Tensor,
    translated: Mapping[str, Sequence[tuple[str, float]]],
) -> Tensor:
    """Rows for `vocabulary` from the rows `matrix` of the old one.

    A piece of the old vocabulary keeps its row. A new word gets the mean of its translations' rows,
    weighted by their probability, or the mean of its own pieces' rows if it has none.
    """
    tokenizer = bert(old)
    places = {piece: place for place, piece in enumerate(old)}

    def row(word: str) -> Tensor:
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        return matrix[ids].mean(0) if ids else matrix[places["[UNK]"]]

    rows = []
    for piece in vocabulary:
        if piece in places:
            rows.append(matrix[places[piece]])
        elif words := translated.get(piece):
            total = sum(weight for _, weight in words)
            rows.append(torch.stack([row(w) * (p / total) for w, p in words]).sum(0))
        else:
            rows.append(row(piece))
    return torch.stack(rows)


def distance(student: Network, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    """How far a batch's mean states lie from the teacher's: squared error plus cosine distance."""
    mean, _ = student.pool(student.encode(ids, mask), mask)
    cosine = functional.cosine_similarity(mean, target, dim=-1)
    return functional.mse_loss(mean, target) * 10 + (1 - cosine).mean()
