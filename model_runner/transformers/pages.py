"""Keys and values in pages of one pool: the store for CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_runner.transformers.attention import Step
from model_runner.transformers.batch import NoRoom, Row, Segment
from model_runner.transformers.paged_attention import PAGE, PLAIN, Kernels, PagedStep


class PagedRow:
    __slots__ = ("length", "pages")

    def __init__(self) -> None:
        self.length = 0
        self.pages: list[int] = []


class PagedStore:
    """limit: bytes of the pool. token_bytes: of one token's keys and values in all layers."""

    trees = False

    def __init__(
        self, limit: int, token_bytes: int, device: torch.device, kernels: Kernels = PLAIN
    ) -> None:
        self.device = device
        self.kernels = kernels
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

    def rest(self, row: Row) -> None:
        """Its pages may stay where they are."""

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
