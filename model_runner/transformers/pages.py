"""Keys and values in pages of one pool: the store for CUDA.

Attention of all sequences of a step is one call for each layer: `varlen_attn` (torch 2.12) reads
pages by a block table, with grouped queries and sliding windows. Elsewhere, on CPUs and with older
torch on CUDA, a plain computation gathers the pages first, so that all but that one call is tested
without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature

import torch
from torch.nn.functional import scaled_dot_product_attention

from model_runner.transformers.attention import Step
from model_runner.transformers.batch import NoRoom, Row, Segment

PAGE = 256  # tokens; flash attention wants a multiple of that


class PagedRow:
    __slots__ = ("length", "pages")

    def __init__(self) -> None:
        self.length = 0
        self.pages: list[int] = []


class PagedStore:
    """limit: bytes of the pool. token_bytes: of one token's keys and values in all layers."""

    trees = False

    def __init__(self, limit: int, token_bytes: int, device: torch.device) -> None:
        self.device = device
        self.count = limit // (token_bytes * PAGE)
        self.spare = self.count  # one page more, which nobody reads: padding writes there
        self.keys: dict[int, torch.Tensor] = {}  # per layer (pages, PAGE, kv heads, dim)
        self.values: dict[int, torch.Tensor] = {}
        self._page_bytes = token_bytes * PAGE
        self._free = list(range(self.count))
        self._scratch: list[int] = []  # of the step under way

    @property
    def used(self) -> int:
        return (self.count - len(self._free)) * self._page_bytes

    @property
    def limit(self) -> int:
        return self.count * self._page_bytes

    def size(self, length: int) -> int:
        return -(-length // PAGE) * self._page_bytes

    def row(self) -> PagedRow:
        return PagedRow()

    def reserve(self, row: Row, length: int) -> None:
        assert isinstance(row, PagedRow)  # noqa: S101
        more = -(-length // PAGE) - len(row.pages)
        row.pages += self.take(more)

    def take(self, count: int) -> list[int]:
        """Pages that nobody has. Raises NoRoom."""
        if count > len(self._free):
            raise NoRoom
        return [self._free.pop() for _ in range(count)]

    @torch.inference_mode()  # as the pools were made
    def copy(self, row: Row, length: int, room: int) -> PagedRow:
        assert isinstance(row, PagedRow)  # noqa: S101
        made = PagedRow()
        self.reserve(made, max(length, room))
        count = -(-length // PAGE)
        for pool in (*self.keys.values(), *self.values.values()):
            pool[made.pages[:count]] = pool[row.pages[:count]]
        made.length = length
        return made

    def free(self, row: Row) -> None:
        assert isinstance(row, PagedRow)  # noqa: S101
        self._free += row.pages
        row.pages, row.length = [], 0

    def release(self) -> None:
        """Take back what was the last step's own."""
        self._free += self._scratch
        self._scratch = []

    def step(self, segments: Sequence[Segment]) -> Step:
        self.release()
        tables = []
        for segment in segments:
            assert isinstance(segment.row, PagedRow)  # noqa: S101
            pages = segment.row.pages
            if not segment.keep:  # its own go to pages of its own, behind what it reads
                whole = segment.start // PAGE
                scratch = self.take(-(-(segment.start + segment.count) // PAGE) - whole)
                self._scratch += scratch
                pages = [*pages[:whole], *scratch]
            tables.append(pages)
        return _flat(self, segments, tables)

    def pools(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of a layer, made with the first (tokens, kv heads, dim) that it sees."""
        if layer not in self.keys:
            self.keys[layer] = key.new_zeros((self.count + 1, PAGE, *key.shape[1:]))
            self.values[layer] = value.new_zeros((self.count + 1, PAGE, *value.shape[1:]))
        return self.keys[layer], self.values[layer]


@dataclass(frozen=True, eq=False)
class PagedStep:
    """Where each token's keys go, and whose pages each sequence reads; the same for all layers.

    slots: (tokens,) places in the pool. ends: (sequences + 1,), lengths: (sequences,) of all that
    is read, table: (sequences, pages). most, longest: bounds of tokens and of `lengths`.
    parts: of each sequence its first token, the one behind its last, and its length.
    moved: begun pages that a segment goes on in its own.
    static: one token for each sequence; used again with other contents of the same tensors.
    """

    store: PagedStore
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
        attend = _plain_rows if self.static else _plain
        if query.is_cuda and flash_pages():
            attend = _flash
        return attend(self, query.transpose(0, 1), keys, values, scale, window)


def _flat(
    store: PagedStore, segments: Sequence[Segment], tables: Sequence[Sequence[int]]
) -> PagedStep:
    slots: list[int] = []
    moved: list[tuple[int, int]] = []
    ends, lengths = [0], []
    for segment, pages in zip(segments, tables, strict=True):
        slots += (pages[at // PAGE] * PAGE + at % PAGE for at in segment.positions)
        ends.append(len(slots))
        lengths.append(segment.start + segment.count)
        if not segment.keep and segment.start % PAGE:
            assert isinstance(segment.row, PagedRow)  # noqa: S101
            whole = segment.start // PAGE
            moved.append((segment.row.pages[whole], pages[whole]))
    wide = max(-(-length // PAGE) for length in lengths)
    table = [(list(pages[:wide]) + [0] * wide)[:wide] for pages in tables]

    def tensor(values: object, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=store.device)

    return PagedStep(
        store,
        tensor(slots, torch.long),
        tensor(ends, torch.int32),
        tensor(lengths, torch.int32),
        tensor(table, torch.int32),
        max(segment.count for segment in segments),
        max(lengths),
        list(zip(ends, ends[1:], lengths, strict=False)),
        moved,
    )


@cache
def flash_pages() -> bool:
    """Whether this torch has attention that reads pages."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"block_table", "num_splits"} <= signature(varlen_attn).parameters.keys()


def _flash(
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


def _plain(
    step: PagedStep,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """What `_flash` computes, (tokens, heads, dim): who writes together, prompts one by one."""
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
    """The same where each sequence has one query: no shape depends on what is in a tensor."""
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
    made = scaled_dot_product_attention(grouped, key, value, sees[:, None, None], scale=scale)
    return made.flatten(1, 2)
