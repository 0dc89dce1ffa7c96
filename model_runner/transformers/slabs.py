"""Keys and values of rows of about equal length in one tensor: one call of attention for them all.

A call for each row and layer costs some 20 microseconds whatever it reads, which for short rows is
most of it. The numbers below are where it stops being so (measured: see the ADR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

MOST_TOKENS = 512  # of a row in a slab ...
MOST_BYTES = 512 << 10  # ... and of its keys and values in one layer
LEAST_TOKENS = 128
SEATS = 4  # by which a slab grows and shrinks


class TensorRow:
    """keys, values: per layer (capacity, kv heads, dim); in a slab, they are views of its own."""

    __slots__ = ("capacity", "keys", "length", "seat", "slab", "values")

    def __init__(self) -> None:
        self.length = 0
        self.capacity = 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.slab: Slab | None = None
        self.seat = 0

    @property
    def own(self) -> int:
        """Tokens that it has room for outside of slabs."""
        return 0 if self.slab else self.capacity

    @torch.inference_mode()  # as all that a pass makes
    def move(self, capacity: int) -> None:
        """To tensors of its own, of that capacity."""
        for tensors in (self.keys, self.values):
            for layer, tensor in tensors.items():
                moved = tensor.new_empty((capacity, *tensor.shape[1:]))
                moved[: self.length] = tensor[: self.length]
                tensors[layer] = moved
        if self.slab:
            self.slab.leave(self)
        self.capacity = capacity


class Slab:
    """rows: in the order of their seats, without gaps. keys, values: (seats, capacity, heads, dim).

    What lies behind a row's length is read, if with a weight of zero: so it has to be numbers.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[TensorRow] = []
        self.seats = 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    @property
    def tokens(self) -> int:
        return self.seats * self.capacity

    def wanted(self, count: int) -> int:
        """Seats for so many rows: as they are, unless they are too few or a quarter is enough."""
        return (
            self.seats if self.seats <= 4 * count <= 4 * self.seats else -(-count // SEATS) * SEATS
        )

    @torch.inference_mode()
    def join(self, rows: Sequence[TensorRow]) -> None:
        """Take these in; all have been through the model."""
        self.resize(self.wanted(len(self.rows) + len(rows)), like=rows[0])
        for row in rows:
            row.slab, row.seat, row.capacity = self, len(self.rows), self.capacity
            self.rows.append(row)
            for mine, tensors in ((self.keys, row.keys), (self.values, row.values)):
                for layer, tensor in tensors.items():
                    place = mine[layer][row.seat]
                    place[: row.length] = tensor[: row.length]
                    place[row.length :] = 0  # whoever sat there may have left what is no number
                    tensors[layer] = place

    @torch.inference_mode()
    def leave(self, row: TensorRow) -> None:
        """The last of the rows takes its seat."""
        last = self.rows.pop()
        if last is not row:
            for mine in (self.keys, self.values):
                for tensor in mine.values():
                    tensor[row.seat] = tensor[last.seat]
            last.seat = row.seat
            self.rows[last.seat] = last
            self._show(last)
        row.slab = None
        self.resize(self.wanted(len(self.rows)))

    def resize(self, seats: int, like: TensorRow | None = None) -> None:
        """like: a row of which to take layers and shapes, where there are none yet."""
        if seats == self.seats:
            return
        keys, values = self.keys, self.values
        if like and not keys:
            keys, values = like.keys, like.values
        # both before either takes its place: if memory ends here, all is as it was
        keys, values = self._resized(keys, seats), self._resized(values, seats)
        self.keys, self.values = keys, values
        self.seats = seats
        for row in self.rows:
            self._show(row)

    def _resized(self, tensors: Mapping[int, torch.Tensor], seats: int) -> dict[int, torch.Tensor]:
        made = {}
        for layer, tensor in tensors.items():
            made[layer] = tensor.new_zeros((seats, self.capacity, *tensor.shape[-2:]))
            if self.rows:
                made[layer][: len(self.rows)] = tensor[: len(self.rows)]
        return made

    def _show(self, row: TensorRow) -> None:
        for mine, tensors in ((self.keys, row.keys), (self.values, row.values)):
            for layer, tensor in mine.items():
                tensors[layer] = tensor[row.seat]


class SlabStep:
    """The next token of rows in one slab. tokens: where each of these stands in the flat batch.

    Rows of the slab that get none are computed with the first token, and that is thrown away.
    """

    def __init__(self, slab: Slab, tokens: Mapping[TensorRow, int]) -> None:
        self.rows = [row for row in slab.rows if row in tokens]
        self._slab = slab
        self._seats = torch.tensor([row.seat for row in self.rows])
        self._starts = torch.tensor([row.length for row in self.rows])
        self._tokens = torch.tensor([tokens[row] for row in self.rows])
        self._places = torch.tensor([tokens.get(row, 0) for row in slab.rows])
        self._count = len(slab.rows)
        self._longest = 1 + max(row.length for row in self.rows)
        self._masks: dict[int | None, torch.Tensor] = {}

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """(tokens, kv heads, dim), twice: of the flat batch."""
        self._slab.keys[layer][self._seats, self._starts] = keys[self._tokens]
        self._slab.values[layer][self._seats, self._starts] = values[self._tokens]

    def past(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, kv heads, positions, dim), twice."""
        keys = self._slab.keys[layer][: self._count, : self._longest]
        values = self._slab.values[layer][: self._count, : self._longest]
        return keys.transpose(1, 2), values.transpose(1, 2)

    def queries(self, query: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """(heads, tokens, dim) -> (rows, kv heads, heads that share keys, dim)."""
        mine = query[:, self._places]
        heads, rows, dim = mine.shape
        return mine.view(kv_heads, heads // kv_heads, rows, dim).permute(2, 0, 1, 3)

    def mask(self, window: int | None, query: torch.Tensor) -> torch.Tensor:
        """(rows, kv heads, heads that share keys, positions), added. The same for all layers."""
        if window not in self._masks:
            position = torch.arange(self._longest)
            own = self._starts[:, None]
            sees = position <= own
            if window is not None:
                sees &= position > own - window
            mask = query.new_zeros((self._count, self._longest))
            mask[self._seats] = mask[self._seats].masked_fill_(~sees, float("-inf"))
            self._masks[window] = mask[:, None, None]
        return self._masks[window].expand(*query.shape[:3], -1)

    def spread(self, made: torch.Tensor, out: torch.Tensor) -> None:
        """made (rows, heads, dim), each to its place in out (tokens, heads, dim)."""
        out[self._tokens] = made if len(self.rows) == self._count else made[self._seats]
