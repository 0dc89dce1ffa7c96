"""Kernels are used only where they compute what the plain ones do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model_runner.transformers.kernel_choice import Heads, differs, kernels_for
from model_runner.transformers.paged_attention import (
    PACKED,
    PAGES,
    PLAIN,
    Attend,
    Kernels,
    PagedStep,
    products,
)

CPU = torch.device("cpu")
HEADS = Heads(4, 2, 16, 4096)


def by_places(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """What the packed kernel reads, one sequence at a time and with a mask written out."""
    places, ends = step.packed
    made = torch.empty_like(query)
    for number, (first, behind, length) in enumerate(step.parts):
        own = places[int(ends[number]) : int(ends[number + 1])]
        assert len(own) == length
        at = torch.arange(length)
        place = at[length + first - behind :, None]
        sees = (at <= place) & (at > place - (window or length))
        key, value = (pool.flatten(0, 1)[own].transpose(0, 1) for pool in (keys, values))
        made[first:behind] = scaled_dot_product_attention(
            query[first:behind].transpose(0, 1), key, value, sees, scale=scale, enable_gqa=True
        ).transpose(0, 1)
    return made


def without_the_last(attend: Attend) -> Attend:
    def made(
        step: PagedStep,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        out = attend(step, query, keys, values, scale, window).clone()
        out[-1] = 0
        return out

    return made


def test_plain_is_plain() -> None:
    assert differs(PLAIN, CPU, torch.float32, HEADS) is None
    assert kernels_for(CPU, torch.float32, HEADS) is PLAIN


@pytest.mark.parametrize("heads", [HEADS, Heads(2, 2, 8)], ids=["grouped, window", "plain"])
def test_places_that_are_read(heads: Heads) -> None:
    kernels = Kernels("by places", by_places, by_places)
    assert differs(kernels, CPU, torch.float32, heads) is None


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PLAIN, mixed=without_the_last(PLAIN.mixed)),
        replace(PLAIN, rows=without_the_last(PLAIN.rows)),
    ],
    ids=["mixed", "rows"],
)
def test_what_computes_something_else_is_told(wrong: Kernels) -> None:
    assert "it differs by" in str(differs(wrong, CPU, torch.float32, HEADS))


@pytest.mark.parametrize("kernels", [PACKED, PAGES], ids=["packed", "pages"])
def test_what_cannot_run_here_is_told(kernels: Kernels) -> None:
    """On a CPU, where torch has no flash attention of that kind."""
    assert "Error: " in str(differs(kernels, CPU, torch.float32, HEADS))


@pytest.mark.parametrize("scale", [None, 0.2])
def test_products_are_attention(scale: float | None) -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 4, count, 8) for count in (3, 70, 70))
    mask = torch.rand(2, 1, 1, 70) < 0.5
    torch.testing.assert_close(
        products(query, key, value, mask, scale=scale),
        scaled_dot_product_attention(query, key, value, mask, scale=scale),
    )
