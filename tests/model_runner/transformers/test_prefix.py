"""Prefixes: the longest is found, whoever else's there are, and in how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model_runner.transformers.batch import NoRoom, Store
from model_runner.transformers.prefix import SHORTEST, Ids, Owner, PrefixCache, array, common

LEAD = [7] * (SHORTEST - 2)  # so that short ones share too little, or just enough
IDS = st.lists(st.integers(0, 2), max_size=6).map(lambda tail: LEAD + tail)
OWNERS = st.sampled_from([Owner("a"), Owner("b"), Owner("a", "adapter")])


@dataclass(eq=False)
class KeptRow:
    length: int


class Rows:
    """Counts what rows take. limit: of tokens, when one is to rest."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.used = 0
        self.limit = limit

    def row(self, length: int) -> KeptRow:
        self.used += self.size(length)
        return KeptRow(length)

    def size(self, length: int) -> int:
        return -(-length // 4) * 4

    def rest(self, row: KeptRow) -> None:
        assert row.length
        if self.used > self.limit:
            raise NoRoom

    def free(self, row: KeptRow) -> None:
        self.used -= self.size(row.length)
        row.length = 0


@given(st.lists(st.tuples(OWNERS, IDS, st.integers(0, 9))), OWNERS, IDS)
def test_the_longest_of_the_owner_is_found(
    kept: list[tuple[Owner, list[int], int]], owner: Owner, wanted: list[int]
) -> None:
    rows = Rows()
    prefixes = PrefixCache(cast(Store, rows))
    here: dict[int, tuple[Owner, list[int], KeptRow]] = {}
    for whose, ids, chance in kept:
        row = rows.row(len(ids))
        prefixes.keep(whose, ids, row)
        here[id(row)] = (whose, ids, row)
        if chance == 0:
            prefixes.evict()
    alive = [one for one in here.values() if one[2].length]
    assert len(prefixes) == len(alive)
    assert prefixes.bytes == rows.used
    shared = [common(array(ids), array(wanted)) for whose, ids, _ in alive if whose == owner]
    found = prefixes.find(owner, array(wanted))
    longest = max(shared, default=0)
    assert (found[1] if found else 0) == (longest if longest >= SHORTEST else 0)
    if found:
        whose, ids, _ = here[id(found[0])]
        assert whose == owner
        assert ids[: found[1]] == wanted[: found[1]]
    prefixes.clear()
    assert prefixes.bytes == rows.used == 0


def test_looking_does_not_take_longer_the_more_there_are() -> None:
    compared = 0

    class Counting(np.ndarray[Any, Any]):
        def __ne__(self, other: object) -> Any:
            nonlocal compared
            compared += 1
            return np.asarray(self) != np.asarray(other)

    rows = Rows()
    prefixes = PrefixCache(cast(Store, rows))
    for number in range(500):
        ids = [*range(50), number, 1]
        prefixes.keep(Owner("a"), ids, rows.row(len(ids)))
    wanted: Ids = array([*range(50), 250, 2]).view(Counting)
    found = prefixes.find(Owner("a"), wanted)
    assert found
    assert found[1] == 51
    assert 0 < compared < 10


def test_one_that_finds_no_room_to_rest_takes_that_of_others() -> None:
    rows = Rows(limit=60)
    prefixes = PrefixCache(cast(Store, rows))
    for first in range(3):
        prefixes.keep(Owner("a"), [first] * 24, rows.row(24))
    assert len(prefixes) == 2
    assert prefixes.find(Owner("a"), array([2] * 24))
    assert not prefixes.find(Owner("a"), array([0] * 24))
    prefixes.keep(Owner("a"), [3] * 80, rows.row(80))
    assert prefixes.bytes == rows.used == len(prefixes) == 0
