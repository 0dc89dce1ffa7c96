"""What training learns from: its own errors, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.encoder import Network, Shape
from filters.builtin.training.examples import Example, Examples
from filters.builtin.training.fit import predict
from filters.builtin.training.mining import hardest, ranking

SHAPE = Shape(40, width=32, heads=1, layers=1, inner=32, positions=16, hidden=8)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = Network(SHAPE, dropout=0.0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def example(token: int, harmful: bool = False, known: bool = True) -> Example:
    size = len(CATEGORIES)
    return Example([2, token, 3], [float(harmful)] * size, [float(known)] * size)


def test_the_hardest_are_those_with_the_highest_score(network: Network) -> None:
    harmless = [example(token) for token in range(4, 40)]
    worst = predict(network, [one.ids for one in harmless]).amax(1)
    found = hardest(network, harmless, 5)
    assert [one.ids[1] - 4 for one in found] == worst.argsort(descending=True)[:5].tolist()
    assert hardest(network, [], 5) == []


def test_what_is_unknown_makes_nothing_hard(network: Network) -> None:
    unknown = [example(token, known=False) for token in range(4, 30)]
    assert hardest(network, [*unknown, example(30)], 1) == [example(30)]


def held(network: Network, languages: Sequence[str], *, right: bool) -> Examples:
    """Labels that agree with the scores of one category, or that say the contrary."""
    tokens = range(4, 4 + 2 * len(languages))
    logits = predict(network, [[2, token, 3] for token in tokens])[:, 0]
    high = (logits > logits.median()).tolist()
    weights = [1.0] + [0.0] * (len(CATEGORIES) - 1)
    rows = [
        Example([2, token, 3], [float(one == right)] + [0.0] * (len(CATEGORIES) - 1), weights)
        for token, one in zip(tokens, high, strict=True)
    ]
    return Examples(rows, ["s"] * len(rows), list(languages) * 2)


def test_a_ranking_is_one_if_every_harmful_text_scores_above_the_others(network: Network) -> None:
    assert ranking(network, held(network, ["en"] * 8, right=True)) == 1.0
    assert ranking(network, held(network, ["en"] * 8, right=False)) == 0.0


def test_a_ranking_needs_labels_of_both_kinds(network: Network) -> None:
    same = Examples([example(5), example(6)], ["s"] * 2, ["en"] * 2)
    assert ranking(network, same) == 0.5
