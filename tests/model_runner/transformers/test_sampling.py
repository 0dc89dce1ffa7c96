from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from model_runner.errors import BadRequest
from model_runner.transformers import sampling
from model_runner.types import Sampling

ROW = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draw(count: int, *, temperature: float = 1.0, top_p: float = 1.0) -> Counter[int]:
    return Counter(
        sampling.choose(
            ROW, temperature=temperature, top_p=top_p, generator=sampling.generator_at(9, 0, i)
        )
        for i in range(count)
    )


def test_greedy() -> None:
    assert draw(5, temperature=0.0) == {0: 5}
    assert draw(5, temperature=1e-300) == {0: 5}


def test_the_nucleus_is_the_smallest_set_that_reaches_the_mass() -> None:
    for top_p, tokens in [
        (0.01, {0}),
        (0.5, {0}),
        (0.51, {0, 1}),
        (0.79, {0, 1}),
        (0.81, {0, 1, 2}),
    ]:
        assert set(draw(300, top_p=top_p)) == tokens


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    count = 4000
    drawn = draw(count, temperature=temperature)
    for token, p in enumerate(torch.softmax(ROW / temperature, -1).tolist()):
        assert abs(drawn[token] - count * p) < 5 * math.sqrt(count * p * (1 - p))


def test_streams_are_apart_and_repeat() -> None:
    def first(*key: int) -> float:
        return float(torch.rand(1, generator=sampling.generator_at(*key)))

    keys = [(s, c, p) for s in (0, 1, -1, 2**63) for c in range(3) for p in range(3)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(1, 2, 3) == first(1, 2, 3)


def test_penalties_and_bans() -> None:
    row = torch.zeros(4)
    out = sampling.penalise(row, {1: 1, 3: 4}, presence=0.5, frequency=0.25)
    assert out.tolist() == [0.0, -0.75, 0.0, -1.5]
    assert sampling.ban(row, {2}).tolist() == [0.0, 0.0, -math.inf, 0.0]
    assert row.tolist() == [0.0] * 4  # what logprobs are read from stays as it is


def test_logprobs() -> None:
    chosen, top = sampling.logprobs(ROW + 3, 2, 2)
    assert chosen == pytest.approx(math.log(0.15))
    assert [token for token, _ in top] == [0, 1]
    assert [p for _, p in top] == pytest.approx([math.log(0.5), math.log(0.3)])
    assert sampling.logprobs(ROW, 0, 0)[1] == []


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": math.nan}, "top_p"),
        ({"n": 1000}, "n"),
        ({"stop": ("x" * 5000,)}, "stop"),
        ({"stop": ("x",) * 50}, "stop"),
        ({"logprobs": -1}, "top_logprobs"),
    ],
)
def test_senseless_values_are_named(options: dict[str, object], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sampling.check(Sampling(**options))  # type: ignore[arg-type]
    assert caught.value.param == param
