"""Attention of many sequences over keys and values in pages, and which kernels compute it.

All sequences of a step are one call for each layer: `varlen_attn` (torch 2.12) reads pages by a
block table, with grouped queries and sliding windows. Before it could, it attends over keys that
are gathered first. Elsewhere, on CPUs say, a plain computation does, so that all but that one call
is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

PAGE = 256  # tokens; flash attention wants a multiple of that


class Pools(Protocol):
    """Where the pages are."""

    @property
    def kernels(self) -> Kernels: ...

    def pools(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of a layer, (pages, PAGE, kv heads, dim), made with the first tokens it sees."""
        ...


@dataclass(frozen=True, eq=False)
class PagedStep:
    """Where each token's keys go, and whose pages each sequence reads; the same for all layers.

    slots: (tokens,) places in the pool. ends: (sequences + 1,), lengths: (sequences,) of all that
    is read, table: (sequences, pages). most, longest: bounds of tokens and of `lengths`.
    parts: of each sequence its first token, the one behind its last, and its length.
    moved: begun pages that a segment goes on in its own.
    static: one token for each sequence; used again with other contents of the same tensors.
    """

    store: Pools
    slots: torch.Tensor
    ends: torch.Tensor
    lengths: torch.Tensor
    table: torch.Tensor
    most: int
    longest: int
    parts: Sequence[tuple[int, int, int]] = ()
    moved: Sequence[tuple[int, int]] = ()
    static: bool = False

    @cached_property
    def writing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the sequences with one token: the tokens, and the places of the sequences."""
        found = [(part[0], n) for n, part in enumerate(self.parts) if part[1] - part[0] == 1]
        at, rows = torch.tensor(found, dtype=torch.long).view(-1, 2).T.to(self.slots.device)
        return at, rows

    @cached_property
    def packed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in the pool of all that is read, one sequence behind the other, and their ends."""
        device, total = self.slots.device, sum(part[2] for part in self.parts)
        ends = torch.zeros(len(self.parts) + 1, dtype=torch.int32, device=device)
        torch.cumsum(self.lengths, 0, dtype=torch.int32, out=ends[1:])
        every = torch.arange(len(self.parts), device=device)
        rows = every.repeat_interleave(self.lengths, output_size=total)  # else it asks the GPU
        at = torch.arange(total, device=device) - ends[rows]
        return self.table[rows, at // PAGE].long() * PAGE + at % PAGE, ends

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        if softcap is not None:
            raise ValueError("paged attention has no soft cap")
        own_keys, own_values = key.transpose(0, 1), value.transpose(0, 1)
        keys, values = self.store.pools(layer, own_keys, own_values)
        for source, target in self.moved:
            keys[target], values[target] = keys[source], values[source]
        keys.flatten(0, 1)[self.slots] = own_keys
        values.flatten(0, 1)[self.slots] = own_values
        kernels = self.store.kernels
        attend = kernels.rows if self.static else kernels.mixed
        return attend(self, query.transpose(0, 1), keys, values, scale, window)


Attend = Callable[
    [PagedStep, torch.Tensor, torch.Tensor, torch.Tensor, float | None, int | None], torch.Tensor
]


@dataclass(frozen=True, eq=False)
class Kernels:
    """mixed: of prompts and of those who write; rows: of one query for each sequence, where no
    shape may depend on what is in a tensor.

    spans: for static steps, the least bound of lengths and how many times that the next one is:
    kernels that gather a table gather all of it.
    """

    name: str
    mixed: Attend
    rows: Attend
    spans: tuple[int, int] = (PAGE, 2)


@cache
def reads_pages() -> bool:
    """Whether this torch has attention that reads pages."""
    return {"block_table", "num_splits"} <= _options()


@cache
def _options() -> frozenset[str]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(signature(varlen_attn).parameters)


def _pages(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Has not run yet: the GPU that was at hand had torch 2.11. What is said of its kernel is read
    from torch's sources.

    Several passes over the keys of one sequence (`num_splits`) write wrong rows where queries are
    packed (pytorch issue 194167). With one query for each sequence, grouped heads and no window,
    the kernel turns the heads of a group into a batch of its own, where splitting is sound, and
    needed for speed; a causal mask hinders that, and one query needs none.
    """
    from torch.nn.attention.varlen import varlen_attn

    grouped = query.shape[1] != keys.shape[2]
    single = step.most == 1 and window is None
    left, right = (-1 if window is None else window - 1), (-1 if single else 0)
    out = varlen_attn(
        query.contiguous(),
        keys,
        values,
        step.ends,
        None,
        step.most,
        step.longest,
        scale=scale,
        window_size=(left, right),
        enable_gqa=grouped,
        seqused_k=step.lengths,
        block_table=step.table,
        num_splits=None if single and grouped else 1,
    )
    assert isinstance(out, torch.Tensor)  # noqa: S101
    return out


def _packed(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """One call for all sequences, over keys that are gathered first."""
    from torch.nn.attention.varlen import varlen_attn

    places, ends = step.packed
    options: dict[str, Any] = {"scale": scale}
    options["window_size"] = (-1 if window is None else window - 1), 0
    if "enable_gqa" in _options():  # before it was asked for, the kernel saw for itself
        options["enable_gqa"] = query.shape[1] != keys.shape[2]
    key, value = (pool.flatten(0, 1)[places] for pool in (keys, values))
    out = varlen_attn(
        query.contiguous(), key, value, step.ends, ends, step.most, step.longest, **options
    )
    assert isinstance(out, torch.Tensor)  # noqa: S101
    return out


def _plain(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """What `_pages` computes, (tokens, heads, dim): who writes together, prompts one by one."""
    made = torch.empty_like(query)
    at, rows = step.writing
    if len(at):
        made[at] = _gathered(
            query[at], keys, values, step.table[rows], step.lengths[rows], scale, window
        )
    group = query.shape[1] // keys.shape[2]
    for number, (first, behind, length) in enumerate(step.parts):
        if behind - first == 1:
            continue
        own = query[first:behind].transpose(0, 1)[None]
        pages = step.table[number, : -(-length // PAGE)]
        # repeated, since on CUDA grouped queries with a mask have slow kernels only
        key, value = (
            pool[pages].flatten(0, 1)[:length].transpose(0, 1)[None].repeat_interleave(group, 1)
            for pool in (keys, values)
        )
        if window is None and behind - first == length:
            one = scaled_dot_product_attention(own, key, value, is_causal=True, scale=scale)
        else:
            place = torch.arange(length + first - behind, length, device=query.device)[:, None]
            key_at = torch.arange(length, device=query.device)[None]
            sees = key_at <= place
            if window is not None:
                sees &= key_at > place - window
            one = scaled_dot_product_attention(own, key, value, sees, scale=scale)
        made[first:behind] = one[0].transpose(0, 1)
    return made


def _plain_rows(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same where each sequence has one query."""
    return _gathered(query, keys, values, step.table, step.lengths, scale, window)


def _gathered(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """One query each, over whole tables.

    The heads of a group stand where queries do, so that keys and values are not repeated.
    """
    key, value = (pool[table].flatten(1, 2).transpose(1, 2) for pool in (keys, values))
    at, length = torch.arange(key.shape[2], device=query.device), lengths[:, None]
    sees = at < length
    if window is not None:
        sees &= at >= length - window
    grouped = query.reshape(len(query), keys.shape[2], -1, query.shape[-1])
    attend = products if query.is_cuda and len(query) == 1 else scaled_dot_product_attention
    made = attend(grouped, key, value, sees[:, None, None], scale=scale)
    return made.flatten(1, 2)


def products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """`scaled_dot_product_attention` as two products.

    Its fused kernels walk along the keys, one block for each head of one sequence, so that most
    of a GPU idles: a step of one stream at 8,000 tokens took 14.2 ms with them, 10.3 so (H100,
    a model of Mistral 7B's shape). With more sequences the fused ones are ahead.
    """
    by = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.transpose(-1, -2)).float() * by
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).to(query.dtype) @ value


PLAIN = Kernels("plain", _plain, _plain_rows)
PACKED = Kernels("packed", _packed, _plain_rows)
PAGES = Kernels("pages", _pages, _pages, (1024, 4))
