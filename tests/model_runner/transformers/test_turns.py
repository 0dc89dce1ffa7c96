"""Whose turn it is, and how often event loops are woken."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from model_runner.transformers.outlet import Handover
from model_runner.transformers.queue import FairQueue


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_keys_take_turns_and_nobody_is_lost(keys: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, key in enumerate(keys):
        queue.put(key, (key, number))
    assert len(queue) == len(keys)
    taken: list[tuple[str, int]] = []
    while (item := queue.take()) is not None:
        taken.append(item)
    assert sorted(taken, key=lambda one: one[1]) == list(zip(keys, range(len(keys)), strict=True))
    for key in "abc":
        mine = [number for name, number in taken if name == key]
        assert mine == sorted(mine)
    for at in range(len(taken)):
        waiting = {name for name, _ in taken[at:]}
        turn = [name for name, _ in taken[at : at + len(waiting)]]
        assert len(set(turn)) == len(turn)  # each that waits, once


def test_a_request_put_back_is_next() -> None:
    queue: FairQueue[int] = FairQueue()
    for key, item in (("a", 1), ("a", 2), ("b", 3)):
        queue.put(key, item)
    first = queue.take()
    assert first == 1
    queue.put_back("a", first)
    queue.drop(lambda item: item == 3)
    assert [queue.take(), queue.take(), queue.take()] == [1, 2, None]


def test_keys_that_may_not_are_passed_over_and_keep_their_turn() -> None:
    queue: FairQueue[int] = FairQueue()
    for key, item in (("a", 1), ("b", 2), ("c", 3)):
        queue.put(key, item)
    assert queue.take(lambda key: key == "b") == 2
    assert queue.take(lambda key: key == "b") is None
    queue.put_back("c", 4, turn=False)
    assert [queue.take(), queue.take(), queue.take()] == [1, 4, 3]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.integers(5, 12))
def test_no_key_keeps_the_others_out(keys: list[str], limit: int) -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(limit):
        assert not queue.full("greedy", limit)
        queue.put("greedy", "greedy")
    let_in = set()
    for key in keys:
        assert queue.full("greedy", limit)
        if not queue.full(key, limit):
            queue.put(key, key)
            let_in.add(key)
    assert let_in == set(keys)
    assert len(queue) <= limit * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)


class CountingLoop:
    """As much of an event loop as a handover uses."""

    def __init__(self, *, closed: bool = False) -> None:
        self.woken = 0
        self.closed = closed

    def call_soon_threadsafe(self, call: Any, *arguments: Any) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.woken += 1
        call(*arguments)


def test_each_loop_is_woken_once_and_a_closed_one_harms_nobody() -> None:
    handover, seen = Handover(), list[int]()
    loops = [CountingLoop(), CountingLoop(closed=True), CountingLoop()]
    for number in range(9):
        loop = cast(asyncio.AbstractEventLoop, loops[number % 3])
        handover.add(loop, seen.append, number)
    handover.flush()
    handover.flush()
    assert [loop.woken for loop in loops] == [1, 0, 1]
    assert seen == [0, 3, 6, 2, 5, 8]
