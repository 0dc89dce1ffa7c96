"""Rows in slabs: whatever comes and goes, each has its keys and values, and reads those alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_runner.transformers.batch import NoRoom, Segment
from model_runner.transformers.rows import RowStore
from model_runner.transformers.slabs import LEAST_TOKENS, MOST_TOKENS, TensorRow

HEADS, KV_HEADS, DIM, LAYERS = 4, 2, 8, 2
TOKEN = LAYERS * 2 * KV_HEADS * DIM * 4  # bytes
Taken = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query (heads), key, value: per token


class Told:
    """What went into a row: per layer the keys and values of all its tokens."""

    def __init__(self, row: TensorRow) -> None:
        self.row = row
        self.keys = [torch.empty(0, KV_HEADS, DIM) for _ in range(LAYERS)]
        self.values = [torch.empty(0, KV_HEADS, DIM) for _ in range(LAYERS)]

    def cut(self, length: int) -> None:
        self.row.length = length
        self.keys = [keys[:length] for keys in self.keys]
        self.values = [values[:length] for values in self.values]

    def holds(self) -> bool:
        return all(
            torch.equal(stored[layer][: self.row.length], expected[layer])
            for stored, expected in ((self.row.keys, self.keys), (self.row.values, self.values))
            for layer in range(LAYERS)
        )

    def attention(
        self, layer: int, query: torch.Tensor, scale: float, window: int | None, cap: float | None
    ) -> torch.Tensor:
        """Of its last tokens, as the definition has it: query (heads, tokens, dim)."""
        keys = self.keys[layer].repeat_interleave(HEADS // KV_HEADS, dim=1)
        values = self.values[layer].repeat_interleave(HEADS // KV_HEADS, dim=1)
        scores = torch.einsum("htd,nhd->htn", query, keys) * scale
        scores = scores if cap is None else torch.tanh(scores / cap) * cap
        count, length = query.shape[1], len(keys)
        own = torch.arange(length - count, length)[:, None]
        others = torch.arange(length)[None]
        sees = (others <= own) & (others > own - (window or length))
        weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
        return torch.einsum("htn,nhd->thd", weights, values)


@torch.inference_mode()
def step(
    store: RowStore,
    told: Sequence[Told],
    count: int,
    *,
    window: int | None = None,
    cap: float | None = None,
) -> list[int]:
    """Each gets `count` tokens more, and reads what it should. The sizes of slabs read as one."""
    for one in told:
        store.reserve(one.row, one.row.length + count)
    segments = [Segment(one.row, [0] * count, one.row.length) for one in told]
    made = store.step(segments)
    tokens = count * len(told)
    for layer in range(LAYERS):
        query = torch.randn(HEADS, tokens, DIM)
        key, value = torch.randn(KV_HEADS, tokens, DIM), torch.randn(KV_HEADS, tokens, DIM)
        out = made.attend(layer, query, key, value, scale=0.3, window=window, softcap=cap)
        for i, one in enumerate(told):
            mine = slice(i * count, (i + 1) * count)
            one.keys[layer] = torch.cat((one.keys[layer], key[:, mine].transpose(0, 1)))
            one.values[layer] = torch.cat((one.values[layer], value[:, mine].transpose(0, 1)))
            expected = one.attention(layer, query[:, mine], 0.3, window, cap)
            torch.testing.assert_close(out[mine], expected, atol=1e-5, rtol=1e-4)
    for one in told:
        one.row.length += count
    return [len(slab.rows) for slab in store.slabs]


OPERATIONS = st.one_of(
    st.tuples(st.just("new"), st.integers(1, 150)),
    st.tuples(st.sampled_from(["write", "cut", "rest", "free", "leave out"]), st.integers(0, 9)),
)


@given(
    st.lists(OPERATIONS, max_size=25),
    st.sampled_from([None, 5]),
    st.sampled_from([None, 2.0]),
    st.sampled_from([600, 1500, 100_000]),
)
def test_whatever_comes_and_goes(
    operations: list[tuple[str, int]], window: int | None, cap: float | None, room: int
) -> None:
    """leave out: some write and others do not."""
    torch.manual_seed(0)
    store = RowStore(room * TOKEN)
    there: list[Told] = []
    for what, number in operations:
        one = there[number % len(there)] if there else None
        try:
            if what == "new":
                one = Told(store.row())
                step(store, [one], number, window=window, cap=cap)
                there.append(one)
            elif what == "write":
                step(store, [t for t in there if t.row.length], 1, window=window, cap=cap)
            elif what == "leave out":
                step(store, [t for t in there[number:] if t.row.length], 1, window=window, cap=cap)
            elif one and what == "cut" and one.row.length > 1:
                one.cut(one.row.length // 2)
            elif one and what == "rest":
                store.rest(one.row)
            elif one and what == "free":
                there.remove(one)
                store.free(one.row)
        except NoRoom:
            pass
        assert all(t.holds() for t in there)
        own = sum(t.row.own for t in there)
        slabs = {id(t.row.slab): t.row.slab for t in there if t.row.slab}
        assert store.used in (0, (own + sum(slab.tokens for slab in slabs.values())) * TOKEN)
        assert store.used <= store.limit
        seats = [(id(t.row.slab), t.row.seat) for t in there if t.row.slab]
        assert len(set(seats)) == len(seats) == sum(len(slab.rows) for slab in slabs.values())
    for t in there:
        store.free(t.row)
    assert not store.used


def begun(store: RowStore, *lengths: int) -> list[Told]:
    told = []
    for length in lengths:
        told.append(Told(store.row()))
        step(store, [told[-1]], length)
    return told


def test_those_that_write_stand_together() -> None:
    store = RowStore(1 << 24)
    told = begun(store, 3, 40, 90, MOST_TOKENS)
    assert step(store, told, 1) == [3]
    assert told[3].row.slab is None
    store.free(told[0].row)
    assert step(store, told[1:], 1) == [2]
    # one alone gains nothing, and one that is over is no company
    assert step(store, told[1:2], 1) == [2]
    store.rest(told[1].row)
    assert told[1].row.slab is None
    assert told[1].row.capacity < LEAST_TOKENS


def test_a_row_moves_on_when_it_outgrows_the_slab() -> None:
    store = RowStore(1 << 24)
    told = begun(store, LEAST_TOKENS - 2, 10, 20)
    for _ in range(2):
        assert step(store, told, 1) == [3]
    assert step(store, told, 1) == [2]
    assert told[0].row.slab is None  # of those of its length there is none yet
    told += begun(store, LEAST_TOKENS + 5)
    assert sorted(step(store, told, 1)) == [2, 2]


def test_those_that_are_over_make_room_for_those_that_write() -> None:
    store = RowStore(1 << 24)
    told = begun(store, *[20] * 8)
    assert step(store, told, 1) == [8]
    assert step(store, told[:3], 1) == [3]
    assert [one.row.slab is None for one in told] == [False] * 3 + [True] * 5


@torch.inference_mode()
def test_what_is_no_number_stays_with_its_row() -> None:
    """A seat is taken over with nothing of what was there, and neighbours do not read it."""
    store = RowStore(1 << 24)
    told = begun(store, 10, 10, 60)
    step(store, told, 1)
    spoiled = told.pop()
    for layer in range(LAYERS):
        spoiled.row.keys[layer].fill_(float("nan"))
        spoiled.row.values[layer].fill_(float("inf"))
    assert step(store, told, 1) == [3]
    store.free(spoiled.row)
    told += begun(store, 5)
    assert step(store, told, 1) == [3]


def test_slabs_take_nobodys_room() -> None:
    """They come while half of the memory is free, and go before anything is refused."""
    store = RowStore(1024 * TOKEN)
    told = begun(store, 60, 60, 60)
    assert step(store, told, 1) == [3]
    (more,) = begun(store, 512)
    assert told[0].row.slab is not None
    (last,) = begun(store, 64)
    assert all(one.row.slab is None for one in told)
    assert store.used == (3 * 64 + 512 + 64) * TOKEN
    assert all(one.holds() for one in (*told, more, last))
    assert step(store, told, 1) == []
    with pytest.raises(NoRoom):
        begun(store, 1024)
