from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_runner.errors import BadRequest
from model_runner.transformers import sampling
from model_runner.transformers.admission import check_request
from model_runner.types import Capabilities, GenerateRequest, Sampling

ROW = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(row: torch.Tensor, *draws: sampling.Draw) -> list[int]:
    return sampling.choose(row.expand(len(draws), -1), draws)


def at(position: int, *, seed: int = 9, choice: int = 0, **options: object) -> sampling.Draw:
    return sampling.Draw(Sampling(**options), seed, choice, position)  # type: ignore[arg-type]


def draw(count: int, **options: object) -> Counter[int]:
    return Counter(drawn(ROW, *(at(i, **options) for i in range(count))))  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"min_p": 0.25}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        # of the two likeliest, 0.5 / 0.8 reaches 0.6
        ({"top_k": 2, "top_p": 0.6}, {0}),
        ({"top_k": 2, "top_p": 0.7}, {0, 1}),
        ({"top_p": 0.9, "min_p": 0.5}, {0, 1}),
    ],
    ids=str,
)
def test_what_may_be_drawn(options: dict[str, object], tokens: set[int]) -> None:
    assert set(draw(400, **options)) == tokens


@given(
    rows=st.lists(st.lists(st.floats(-20, 20), min_size=9, max_size=9), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_row_depends_on_itself_alone(rows: list[list[float]], data: st.DataObject) -> None:
    made = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
        top_k=st.sampled_from([None, 1, 3, 50]),
        min_p=st.sampled_from([0.0, 0.1, 0.9]),
        repetition_penalty=st.sampled_from([1.0, 1.5]),
        presence_penalty=st.sampled_from([0.0, 1.0]),
        logit_bias=st.dictionaries(st.integers(0, 8), st.floats(-50, 50), max_size=3),
    )
    draws = [
        sampling.Draw(data.draw(made), seed=i, choice=0, position=i, read=(1, 2), written=(3, 3))
        for i in range(len(rows))
    ]
    logits = torch.tensor(rows)
    before = logits.clone()
    together = sampling.choose(logits, draws)
    assert torch.equal(logits, before)  # what logprobs are read from stays as it is
    alone = [
        token
        for row, one in zip(logits, draws, strict=True)
        for token in sampling.choose(row[None], [one])
    ]
    assert together == alone


def test_a_wide_nucleus_is_whole() -> None:
    """More tokens than are looked at first."""
    row = torch.zeros(1000)
    assert len(set(drawn(row, *(at(i, top_p=0.9) for i in range(4000))))) > 850
    few = set(drawn(row + torch.arange(1000) * 1e-3, *(at(i, top_k=200) for i in range(2000))))
    assert min(few) == 800
    assert len(few) > 190


def test_streams_are_apart_and_repeat() -> None:
    keys = [(s, c, p) for s in (0, 1, -1, 2**63) for c in range(3) for p in range(3)]
    streams = {sampling.stream(at(p, seed=s, choice=c)) for s, c, p in keys}
    assert len(streams) == len(keys)
    assert all(0 <= stream < 2**63 for stream in streams)


def adjusted(row: torch.Tensor, **options: object) -> list[float]:
    names = ("read", "written", "banned")
    of_draw = {name: options.pop(name) for name in names if name in options}
    asked = Sampling(**options)  # type: ignore[arg-type]
    made = sampling.Draw(asked, 0, 0, 0, **of_draw)  # type: ignore[arg-type]
    return sampling.adjust(row, made).tolist()


def test_penalties_biases_and_bans() -> None:
    row = torch.zeros(4)
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    assert adjusted(row, **penalties, read=(0,), written=(1, 3, 3, 3, 3)) == [0.0, -0.75, 0.0, -1.5]
    assert adjusted(row, banned={2}) == [0.0, 0.0, -math.inf, 0.0]
    assert adjusted(row, logit_bias={0: -100.0, 3: 5.0}) == [-100.0, 0.0, 0.0, 5.0]
    mixed = torch.tensor([4.0, -4.0, 4.0, -4.0])
    assert adjusted(mixed, repetition_penalty=2.0, read=(0, 0), written=(1,)) == [2, -8, 4, -4]
    assert row.tolist() == [0.0] * 4


def test_logprobs() -> None:
    rows = torch.stack((ROW + 3, ROW, ROW))
    draws = [sampling.Draw(Sampling(logprobs=asked), 0, 0, 0) for asked in (2, None, 0)]
    first, unasked, last = sampling.told(rows, draws, [2, 0, 0])
    assert first is not None
    assert last is not None
    assert unasked is None
    (chosen, top), (_, none) = first, last
    assert chosen == pytest.approx(math.log(0.15))
    assert [token for token, _ in top] == [0, 1]
    assert [p for _, p in top] == pytest.approx([math.log(0.5), math.log(0.3)])
    assert none == []


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": math.nan}, "top_p"),
        ({"n": 1000}, "n"),
        ({"logit_bias": {5000: 1.0}}, "logit_bias"),
        ({"stop": ("x" * 5000,)}, "stop"),
        ({"stop": ("x",) * 50}, "stop"),
        ({"logprobs": -1}, "top_logprobs"),
    ],
)
def test_senseless_values_are_named(options: dict[str, object], param: str) -> None:
    can = Capabilities(n=True, logprobs=True, logit_bias=True, token_prompts=True)
    request = GenerateRequest(token_ids=(1,), sampling=Sampling(**options))  # type: ignore[arg-type]
    with pytest.raises(BadRequest) as caught:
        check_request(request, can, 4096)
    assert caught.value.param == param
