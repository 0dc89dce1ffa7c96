"""Prefixes: keys and values of sequences that are over, for those that begin alike."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_runner.transformers.batch import NoRoom, Row, Store

SHORTEST = 16  # tokens; less is not worth a copy

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Owner:
    """Who may read what was computed: never another tenant, never another adapter."""

    tenant: str
    adapter: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    owner: Owner
    ids: Ids
    row: Row

    @cached_property
    def order(self) -> bytes:
        return _bytes(self.ids)


def array(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int64)


def common(one: Ids, other: Ids) -> int:
    """How many ids the two begin with in common."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


class PrefixCache:
    """Least recently used goes first, when the store needs the room.

    An owner's entries stand in the order of their ids, and none begins another: so that a text
    shares most with one of the two between which it would stand, however many there are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: OrderedDict[Entry, None] = OrderedDict()
        self._ordered: dict[Owner, list[Entry]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, owner: Owner, ids: Ids) -> tuple[Row, int] | None:
        """The row that shares most with `ids`, and how many tokens; None if that is too little."""
        best, longest = None, SHORTEST - 1
        for entry in self._beside(owner, ids):
            if (shared := common(entry.ids, ids)) > longest:
                best, longest = entry, shared
        if best is None:
            return None
        self._entries.move_to_end(best)
        return best.row, longest

    def keep(self, owner: Owner, ids: Sequence[int], row: Row) -> None:
        """Take over a row that holds `ids`, or free it if it adds nothing."""
        made = Entry(owner, array(ids), row)
        if len(made.ids) < SHORTEST:
            self._store.free(row)
            return
        for entry in self._beside(owner, made.ids):
            shared = common(entry.ids, made.ids)
            if shared == len(made.ids):
                self._entries.move_to_end(entry)
                self._store.free(row)
                return
            if shared == len(entry.ids):
                self._drop(entry)
        if not self._rest(row):
            self._store.free(row)
            return
        there = self._ordered.setdefault(owner, [])
        insort(there, made, key=_order)
        self._entries[made] = None
        self.bytes += self._store.size(row.length)

    def _rest(self, row: Row) -> bool:
        """Whether it has found its place, others making room."""
        while True:
            try:
                self._store.rest(row)
            except NoRoom:
                if not self.evict():
                    return False
            else:
                return True

    def evict(self) -> bool:
        """Let go of one; whether there was any."""
        if not self._entries:
            return False
        self._drop(next(iter(self._entries)))
        return True

    def clear(self) -> None:
        while self.evict():
            pass

    def _beside(self, owner: Owner, ids: Ids) -> list[Entry]:
        """The entries before and behind the place of `ids`."""
        there = self._ordered.get(owner, [])
        at = bisect_left(there, _bytes(ids), key=_order)
        return there[max(0, at - 1) : at + 1]

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry]
        there = self._ordered[entry.owner]
        del there[bisect_left(there, entry.order, key=_order)]
        if not there:
            del self._ordered[entry.owner]
        self.bytes -= self._store.size(entry.row.length)
        self._store.free(entry.row)


def _bytes(ids: Ids) -> bytes:
    """Ordered as the ids are."""
    return ids.astype(">u4").tobytes()


def _order(entry: Entry) -> bytes:
    return entry.order
