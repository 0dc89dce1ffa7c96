"""Keys and values in tensors of their own for each sequence: the store for CPUs.

A row grows in blocks, is cut by forgetting (what lies behind its length is written over), is kept
after its end as it is, and takes no more room than its sequence needs, however long its neighbours
are. Measured against one tensor of equal slots for all (see the ADR): a few percent slower where
all sequences are equally long, several times faster where one is much longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from model_runner.transformers.attention import Step
from model_runner.transformers.batch import NoRoom, Row, Segment

BLOCK = 64  # tokens by which a row grows at least
GROWTH = 1.25
FEW = 16  # tokens for which attention is quicker with heads folded: up to three times for 2


class TensorRow:
    """keys, values: per layer (capacity, kv heads, dim)."""

    __slots__ = ("capacity", "keys", "length", "values")

    def __init__(self) -> None:
        self.length = 0
        self.capacity = 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}


class RowStore:
    """limit: bytes at most, of all rows together."""

    trees = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens = 0  # that rows have room for
        self._token_bytes: dict[int, int] = {}  # per layer

    @property
    def used(self) -> int:
        return self._tokens * sum(self._token_bytes.values())

    @property
    def limit(self) -> int:
        return self._limit

    def size(self, length: int) -> int:
        return _blocks(length) * sum(self._token_bytes.values())

    def row(self) -> TensorRow:
        return TensorRow()

    def reserve(self, row: Row, length: int) -> None:
        assert isinstance(row, TensorRow)  # noqa: S101
        if length <= row.capacity:
            return
        capacity = _blocks(max(length, int(row.capacity * GROWTH)))
        if not self._fits(capacity - row.capacity):
            capacity = _blocks(length)  # rather a copy more than to fail, or to take another's room
        more = capacity - row.capacity
        if not self._fits(more):
            raise NoRoom
        self._tokens += more
        row.capacity = capacity
        for tensors in (row.keys, row.values):
            for layer, tensor in tensors.items():
                grown = tensor.new_empty((capacity, *tensor.shape[1:]))
                grown[: row.length] = tensor[: row.length]
                tensors[layer] = grown

    def copy(self, row: Row, length: int, room: int) -> TensorRow:
        assert isinstance(row, TensorRow)  # noqa: S101
        made = TensorRow()
        self.reserve(made, max(length, room))
        for source, target in ((row.keys, made.keys), (row.values, made.values)):
            for layer, tensor in source.items():
                target[layer] = tensor.new_empty((made.capacity, *tensor.shape[1:]))
                target[layer][:length] = tensor[:length]
        made.length = length
        return made

    def free(self, row: Row) -> None:
        assert isinstance(row, TensorRow)  # noqa: S101
        self._tokens -= row.capacity
        row.length = row.capacity = 0
        row.keys.clear()
        row.values.clear()

    def step(self, segments: Sequence[Segment]) -> Step:
        return RowStep(self, segments)

    def _fits(self, more: int) -> bool:
        return self.used + self.size(more) <= self._limit

    def begin(self, row: TensorRow, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """The row's first tokens in this layer: key and value (tokens, kv heads, dim)."""
        row.keys[layer] = key.new_empty((row.capacity, *key.shape[1:]))
        row.values[layer] = value.new_empty((row.capacity, *value.shape[1:]))
        if layer not in self._token_bytes:
            self._token_bytes[layer] = key[0].nbytes + value[0].nbytes


class RowStep:
    """One call of scaled-dot-product attention for each sequence and layer."""

    def __init__(self, store: RowStore, segments: Sequence[Segment]) -> None:
        self._store = store
        self._parts: list[tuple[int, int, Segment, TensorRow]] = []
        at = 0
        for segment in segments:
            assert isinstance(segment.row, TensorRow)  # noqa: S101
            self._parts.append((at, at + segment.count, segment, segment.row))
            at += segment.count
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

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
        heads, tokens, _ = query.shape
        kv_heads, _, width = value.shape
        out = query.new_empty((tokens, heads, width))
        own_keys, own_values = key.transpose(0, 1), value.transpose(0, 1)
        for at, end, segment, row in self._parts:
            low = 0 if window is None else max(0, segment.start - window + 1)
            keys, values = self._past(
                layer, segment, row, low, own_keys[at:end], own_values[at:end]
            )
            keys, values = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
            mask = self._mask(at, segment, low, window, query) if end - at > 1 else None
            if end - at == 1 or (end - at <= FEW and mask is not None):
                # the heads that share keys stand where more tokens would: none is read twice
                groups = heads // kv_heads
                few = query[:, at:end].reshape(1, kv_heads, groups * (end - at), -1)
                tiled = None if mask is None else mask.repeat(groups, 1)
                made = _sdpa(few, keys, values, tiled, causal=False, scale=scale, softcap=softcap)
                out[at:end] = made.reshape(heads, end - at, width).transpose(0, 1)
                continue
            several = query[None, :, at:end]
            made = _sdpa(
                several, keys, values, mask, causal=mask is None, scale=scale, softcap=softcap
            )
            out[at:end] = made[0].transpose(0, 1)
        return out

    def _past(
        self,
        layer: int,
        segment: Segment,
        row: TensorRow,
        low: int,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the segment reads, from position `low`: (tokens, kv heads, dim), twice."""
        start = segment.start
        if segment.keep:
            if layer not in row.keys:
                self._store.begin(row, layer, key, value)
            keys, values = row.keys[layer], row.values[layer]
            end = start + key.shape[0]
            keys[start:end] = key
            values[start:end] = value
            return keys[low:end], values[low:end]
        past_keys, past_values = row.keys[layer][low:start], row.values[layer][low:start]
        return torch.cat((past_keys, key)), torch.cat((past_values, value))

    def _mask(
        self, at: int, segment: Segment, low: int, window: int | None, query: torch.Tensor
    ) -> torch.Tensor | None:
        """(tokens, keys), added to the scores; None: a plain triangle. The same for all layers."""
        if (at, window) not in self._masks:
            self._masks[at, window] = _mask(segment, low, window, query)
        return self._masks[at, window]


def _blocks(length: int) -> int:
    """`length`, in whole blocks."""
    return -(-length // BLOCK) * BLOCK


def _mask(
    segment: Segment, low: int, window: int | None, query: torch.Tensor
) -> torch.Tensor | None:
    count = segment.count
    narrow = window is not None and segment.start + count - low > window
    if segment.start == low and segment.sees is None and not narrow:
        return None
    own = torch.tensor(list(segment.positions))
    past = torch.arange(low, segment.start)
    sees = torch.ones(count, len(past) + count, dtype=torch.bool)
    sees[:, len(past) :] = (
        torch.ones(count, count, dtype=torch.bool).tril_() if segment.sees is None else segment.sees
    )
    if window is not None:
        sees &= torch.cat((past, own))[None] > own[:, None] - window
    mask = query.new_zeros(sees.shape)
    return mask.masked_fill_(~sees.to(query.device), float("-inf"))


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool,
    scale: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """(1, heads, tokens, dim). causal: as many tokens as keys, each reads those up to its own."""
    if softcap is None:
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )
    # Fused attention has no soft cap (Gemma 2, https://arxiv.org/abs/2408.00118, section 2).
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = torch.tanh(scores / softcap) * softcap
    if causal:
        mask = query.new_full(scores.shape[2:], float("-inf")).triu_(1)
    scores = scores if mask is None else scores + mask
    return torch.softmax(scores.float(), dim=-1).to(query.dtype) @ value
