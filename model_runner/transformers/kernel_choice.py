"""Which attention kernels serve a device: the quickest that compute what the plain ones do.

They are compared on the device itself, when a model is loaded: which kernels there are, and what
they take, differs between versions of torch and between GPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from model_runner.transformers.batch import Segment
from model_runner.transformers.paged_attention import (
    PACKED,
    PAGE,
    PAGES,
    PLAIN,
    Kernels,
    PagedStep,
    reads_pages,
)
from model_runner.transformers.pages import PagedStore

NEAR = 0.02  # difference, root of the mean square; bfloat16 rounds to a quarter of a percent
FAULTS = (RuntimeError, TypeError, ValueError, ImportError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heads:
    """Of a model's attention: how many of queries, of keys and values, and how wide.

    window: of layers that see so many tokens only, if there are any.
    """

    count: int
    kv: int
    dim: int
    window: int | None = None


def kernels_for(device: torch.device, dtype: torch.dtype, heads: Heads) -> Kernels:
    """Those that are there and compute something else are told in the log."""
    if device.type != "cuda":
        return PLAIN
    for kernels in (PAGES, PACKED) if reads_pages() else (PACKED,):
        if (why := differs(kernels, device, dtype, heads)) is None:
            return kernels
        logger.warning("no attention by %s here: %s", kernels.name, why)
    # cuDNN plans anew for every length: prompts took 20 times as long on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    return PLAIN


@torch.inference_mode()
def differs(kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: Heads) -> str | None:
    """Why they cannot be used; None if they compute what the plain ones do."""
    windows = {None, heads.window and min(heads.window, PAGE // 4)}
    for window in windows:
        expected = list(_attended(PLAIN, device, dtype, heads, window))
        try:
            found = list(_attended(kernels, device, dtype, heads, window))
        except FAULTS as error:
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        for one, other in zip(found, expected, strict=True):
            apart = float((one - other).float().square().mean().sqrt() / other.float().std())
            if not apart <= NEAR:
                return f"it differs by {apart:.2g}"
    return None


def _attended(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: Heads, window: int | None
) -> Iterator[torch.Tensor]:
    """Of prompts, of prompts in pieces beside one who writes, and of two who write."""
    store = PagedStore(8 * PAGE, 1, device, kernels)
    rows = [store.row() for _ in range(3)]
    for row in rows:
        store.reserve(row, 2 * PAGE)
    random = torch.Generator(device).manual_seed(0)

    def attend(asked: Sequence[tuple[int, int, int]], *, static: bool = False) -> torch.Tensor:
        made = store.step([Segment(rows[at], [0] * count, start) for at, start, count in asked])
        assert isinstance(made, PagedStep)  # noqa: S101
        tokens = sum(count for _, _, count in asked)
        query, key, value = (
            torch.randn(number, tokens, heads.dim, generator=random, device=device).to(dtype)
            for number in (heads.count, heads.kv, heads.kv)
        )
        step = replace(made, static=static)
        return step.attend(0, query, key, value, scale=None, window=window, softcap=None)

    yield attend([(0, 0, 300), (2, 0, 200)])
    yield attend([(0, 300, 1), (1, 0, 261), (2, 200, 60)])
    yield attend([(0, 301, 1), (1, 261, 1)], static=True)
    yield attend([(0, 302, 1)], static=True)
