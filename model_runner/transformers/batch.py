"""What one forward pass is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from model_runner.transformers.attention import Step


class Row(Protocol):
    """Where the keys and values of one sequence are kept. `length`: of how many tokens."""

    length: int


class NoRoom(Exception):
    """The keys and values do not fit the memory they may have."""


@dataclass(slots=True, eq=False)
class Segment:
    """Tokens of one sequence that go through the model together.

    row: whose keys and values they read, up to `start`, the position of the first.
    keep: their own are stored behind (and the row is as long as that once the pass is over).
    outputs: of which tokens the logits are wanted, by index.
    offsets: positions past `start`, where they are no plain sequence.
    sees: (tokens, tokens), which of the others each token reads; None: those before it.
    """

    row: Row
    ids: Sequence[int]
    start: int
    keep: bool = True
    outputs: tuple[int, ...] = ()
    offsets: Sequence[int] | None = None
    sees: torch.Tensor | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> Iterable[int]:
        if self.offsets is None:
            return range(self.start, self.start + len(self.ids))
        return (self.start + offset for offset in self.offsets)


class Store(Protocol):
    """Keys and values of all sequences, in bounded memory. trees: whether segments may be some."""

    trees: bool

    @property
    def used(self) -> int:
        """Bytes."""
        ...

    @property
    def limit(self) -> int:
        """Bytes."""
        ...

    def size(self, length: int) -> int:
        """Bytes that a row of so many tokens takes. 0 while nothing is known of the model."""
        ...

    def row(self) -> Row: ...

    def reserve(self, row: Row, length: int) -> None:
        """Make room for `length` tokens in all. Raises NoRoom."""
        ...

    def copy(self, row: Row, length: int, room: int) -> Row:
        """A new row that begins with the first `length` tokens, with room for `room` in all.

        Raises NoRoom.
        """
        ...

    def rest(self, row: Row) -> None:
        """It is only read from now on. Raises NoRoom; then it is as it was."""
        ...

    def free(self, row: Row) -> None: ...

    def step(self, segments: Sequence[Segment]) -> Step: ...


def tree(
    suffixes: Sequence[Sequence[int]],
) -> tuple[list[int], list[int], torch.Tensor | None, list[int]]:
    """Several continuations of one text as one segment: what they begin with in common runs once.

    Returns ids, offsets, who sees whom (None: all before), and the index of each one's last token.
    """
    trunk = 0
    while len({tuple(suffix[trunk : trunk + 1]) for suffix in suffixes} - {()}) == 1 and all(
        len(suffix) > trunk for suffix in suffixes
    ):
        trunk += 1
    ids, offsets = list(suffixes[0][:trunk]), list(range(trunk))
    ends = []
    spans = []
    for suffix in suffixes:
        begin = len(ids)
        ids += suffix[trunk:]
        offsets += range(trunk, len(suffix))
        spans.append((begin, len(ids)))
        ends.append((len(ids) if len(suffix) > trunk else trunk) - 1)
    if sum(end > begin for begin, end in spans) < 2:
        return ids, offsets, None, ends
    sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril_()
    for begin, end in spans:
        sees[begin:end, trunk:begin] = False
    return ids, offsets, sees, ends
