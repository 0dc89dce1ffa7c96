"""Batches of texts of like length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pad(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """ids [batch, tokens] and mask, on the device; id 0 is padding."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(device), mask.to(device)


def by_length(
    lengths: Sequence[int], *, tokens: int, chance: random.Random
) -> Iterator[Sequence[int]]:
    """Places grouped into batches of about `tokens` tokens, of like length, in random order."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place] + chance.random())
    batches: list[list[int]] = [[]]
    for place in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[place] > tokens:
            batches.append([])
        batches[-1].append(place)
    chance.shuffle(batches)
    yield from filter(None, batches)
