"""Learning from the network's own errors, and knowing when it was best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.encoder import Network
from filters.builtin.training.examples import Example, Examples
from filters.builtin.training.fit import predict
from filters.builtin.training.measures import auc


def hardest(network: Network, harmless: Sequence[Example], most: int) -> list[Example]:
    """The `most` harmless examples that look worst to the network, the worst first.

    (Shrivastava et al. 2016, online hard example mining; here once, over texts it has not seen.)
    """
    if not harmless:
        return []
    logits = predict(network, [one.ids for one in harmless])
    known = torch.tensor([one.weights for one in harmless]) > 0
    worst = logits.masked_fill(~known, -1e4).amax(1)
    return [harmless[place] for place in worst.argsort(descending=True)[:most].tolist()]


def ranking(network: Network, held: Examples) -> float:
    """Mean area under the ROC curve over categories and languages, on sources held out whole."""
    logits = predict(network, [one.ids for one in held.rows])
    areas = [
        area
        for place in range(len(CATEGORIES))
        for language in sorted(set(held.languages))
        if (area := _area(logits, held, place, language)) == area  # NaN: labels of one kind
    ]
    return sum(areas) / len(areas) if areas else 0.5


def _area(logits: Tensor, held: Examples, place: int, language: str) -> float:
    rows = [
        number
        for number, row in enumerate(held.rows)
        if row.weights[place] and held.languages[number] == language
    ]
    targets = [held.rows[number].targets[place] >= 0.5 for number in rows]
    return auc(logits[rows, place].tolist(), targets)
