"""Keys and values in tensors of their own for each sequence: the store for CPUs.

A row grows in blocks, is cut by forgetting (what lies behind its length is written over), is kept
after its end, and takes no more room than its sequence needs, however long its neighbours are.
While there is memory to spare, short ones that write stand together in slabs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from model_runner.transformers.attention import Step
from model_runner.transformers.batch import NoRoom, Row, Segment
from model_runner.transformers.slabs import (
    LEAST_TOKENS,
    MOST_BYTES,
    MOST_TOKENS,
    Slab,
    SlabStep,
    TensorRow,
)

BLOCK = 64  # tokens by which a row grows at least
GROWTH = 1.25
WIDENED = 1 << 20  # bytes of a row's keys up to which widening them pays: up to twice as quick
FEW = 16  # tokens for which attention is quicker with heads folded: up to three times for 2


class RowStore:
    """limit: bytes at most, of all rows together."""

    trees = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens = 0  # that rows have room for, slabs apart
        self._slabs: dict[int, Slab] = {}  # by capacity
        self._token_bytes: dict[int, int] = {}  # per layer

    @property
    def used(self) -> int:
        tokens = self._tokens + sum(slab.tokens for slab in self.slabs)
        return tokens * sum(self._token_bytes.values())

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def slabs(self) -> Collection[Slab]:
        return self._slabs.values()

    def size(self, length: int) -> int:
        return _blocks(length) * sum(self._token_bytes.values())

    def row(self) -> TensorRow:
        return TensorRow()

    def reserve(self, row: Row, length: int) -> None:
        assert isinstance(row, TensorRow)  # noqa: S101
        if length <= row.capacity:
            return
        if self._grow(row, _blocks(max(length, int(row.own * GROWTH)))):
            return
        if self._grow(row, _blocks(length)):  # rather a copy more than to take another's room
            return
        for slab in list(self.slabs):
            for other in list(slab.rows):
                self._move(other, _blocks(other.length))
        if length > row.capacity and not self._grow(row, _blocks(length)):
            raise NoRoom

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
        self._tokens -= row.own
        if row.slab:
            row.slab.leave(row)
            self._tidy()
        row.length = row.capacity = 0
        row.keys.clear()
        row.values.clear()

    def rest(self, row: Row) -> None:
        """Out of its slab, whose other rows still write. Raises NoRoom."""
        assert isinstance(row, TensorRow)  # noqa: S101
        if row.slab and not self._grow(row, _blocks(row.length)):
            raise NoRoom

    def _grow(self, row: TensorRow, capacity: int) -> bool:
        """Give it tensors of its own of that capacity, if they fit."""
        if self.used + self.size(capacity - row.own) > self._limit:
            return False
        self._move(row, capacity)
        return True

    def _move(self, row: TensorRow, capacity: int) -> None:
        self._tokens += capacity - row.own
        row.move(capacity)
        self._tidy()

    def _tidy(self) -> None:
        self._slabs = {size: slab for size, slab in self._slabs.items() if slab.rows}

    def step(self, segments: Sequence[Segment]) -> Step:
        return RowStep(self, segments)

    def begin(self, row: TensorRow, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """The row's first tokens in this layer: key and value (tokens, kv heads, dim)."""
        row.keys[layer] = key.new_empty((row.capacity, *key.shape[1:]))
        row.values[layer] = value.new_empty((row.capacity, *value.shape[1:]))
        if layer not in self._token_bytes:
            self._token_bytes[layer] = key[0].nbytes + value[0].nbytes

    def gather(self, rows: Sequence[TensorRow]) -> list[Slab]:
        """Slabs in which most rows are of these, each of which now gets one token.

        Those that may stand in one and do not yet are moved there while half of the memory is free:
        the room that slabs leave unused then takes nobody's, and goes first when it is short.
        """
        joining: dict[int, list[TensorRow]] = defaultdict(list)
        for row in rows:
            capacity = self._capacity(row)
            if row.slab is None and row.length and capacity:
                joining[capacity].append(row)
        for capacity, some in joining.items():
            slab = self._slabs.get(capacity) or Slab(capacity)
            count = len(slab.rows) + len(some)
            more = (slab.wanted(count) - slab.seats) * capacity - sum(row.own for row in some)
            if count > 1 and self.used + self.size(more) <= self._limit // 2:
                self._tokens -= sum(row.own for row in some)
                slab.join(some)
                self._slabs[capacity] = slab
        here = Counter(row.slab for row in rows)
        return [slab for slab, count in here.items() if slab and self._shared(slab, count, rows)]

    def _shared(self, slab: Slab, count: int, rows: Sequence[TensorRow]) -> bool:
        """Whether one call for all in the slab is worth it, of whom `count` write.

        Those that do not, being over or waited for, go if they are many: they are computed in vain.
        """
        if count < 2:
            return False
        if len(slab.rows) > 2 * count:
            writing = set(rows)
            for row in [row for row in slab.rows if row not in writing]:
                self._grow(row, _blocks(row.length))
        return len(slab.rows) <= 2 * count

    def _capacity(self, row: TensorRow) -> int:
        """Of the slab in which it may stand; 0 if in none."""
        capacity = max(LEAST_TOKENS, 1 << row.length.bit_length())
        most = max(self._token_bytes.values(), default=0)
        fits = capacity <= MOST_TOKENS and capacity * most <= MOST_BYTES
        return capacity if fits else 0


class RowStep:
    """A call of attention for each slab and layer, and one for each of the other segments."""

    def __init__(self, store: RowStore, segments: Sequence[Segment]) -> None:
        self._store = store
        self._parts: list[tuple[int, int, Segment, TensorRow]] = []
        writing: dict[TensorRow, int] = {}
        at = 0
        for segment in segments:
            row = segment.row
            assert isinstance(row, TensorRow)  # noqa: S101
            if segment.keep and segment.count == 1 and row.length == segment.start:
                writing[row] = at
            self._parts.append((at, at + segment.count, segment, row))
            at += segment.count
        self._slabs = [SlabStep(slab, writing) for slab in store.gather(list(writing))]
        done = {row for step in self._slabs for row in step.rows}
        self._parts = [p for p in self._parts if not (p[2].keep and p[3] in done)]
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
        for step in self._slabs:
            step.store(layer, own_keys, own_values)
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
                made = _few(few, keys, values, tiled, scale=scale, softcap=softcap)
                out[at:end] = made.reshape(heads, end - at, width).transpose(0, 1)
                continue
            several = query[None, :, at:end]
            made = _sdpa(
                several, keys, values, mask, causal=mask is None, scale=scale, softcap=softcap
            )
            out[at:end] = made[0].transpose(0, 1)
        for step in self._slabs:
            keys, values = step.past(layer)
            few = step.queries(query, kv_heads)
            mask = step.mask(window, few)
            made = _few(few, keys, values, mask, scale=scale, softcap=softcap)
            step.spread(made.reshape(-1, heads, width), out)
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


def _few(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """(rows, heads, tokens, dim). Half precision is widened while that is quicker."""
    kind = query.dtype
    if kind != torch.float32 and key[0].nbytes <= WIDENED:
        query, key, value = query.float(), key.float(), value.float()
        mask = None if mask is None else mask.float()
    made = _sdpa(query, key, value, mask, causal=False, scale=scale, softcap=softcap)
    return made.to(kind)


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
    """(rows, heads, tokens, dim). causal: as many tokens as keys, each reads up to its own."""
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
