from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runner.transformers.stops import StopScanner

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Read to the first place at which a stop string ends; the longest that ends there."""
    for end in range(1, len(text) + 1):
        ending = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(ending)], True
    return text, False


@given(LETTERS, STOPS, st.data())
def test_however_it_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    scanner = StopScanner(stops)
    kept, stopped = expected(text, stops)
    out, at = "", 0
    while at < len(text):
        size = data.draw(st.integers(1, 7))
        out += scanner.push(text[at : at + size])
        at += size
        assert kept.startswith(out)
    assert out + scanner.flush() == kept
    assert scanner.stopped == stopped


@given(LETTERS, STOPS, st.integers(0, 30))
def test_text_is_held_only_while_a_stop_string_may_have_begun(
    text: str, stops: list[str], cut: int
) -> None:
    scanner = StopScanner(stops)
    out = scanner.push(text[:cut])
    if not scanner.stopped:
        held = text[:cut][len(out) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(LETTERS, LETTERS, STOPS)
def test_a_stop_string_may_begin_in_text_that_is_out(
    seen: str, text: str, stops: list[str]
) -> None:
    seen = expected(seen, stops)[0]
    scanner = StopScanner(stops, seen=seen)
    out = scanner.push(text) + scanner.flush()
    kept, stopped = expected(seen + text, stops)
    if not expected(seen, stops)[1]:
        assert scanner.stopped == stopped
        assert seen + out == (kept if len(kept) > len(seen) else seen)


def test_long_stop_strings_cost_as_much_as_the_text_is_long() -> None:
    asked = 0

    class Stop(str):
        def startswith(self, *of: Any) -> bool:
            nonlocal asked
            asked += 1
            return super().startswith(*of)

    scanner = StopScanner([Stop("x" * 1000 + "y")])
    for piece in ("word ", "x" * 40, "no"):
        for _ in range(100):
            scanner.push(piece)
    assert not scanner.stopped
    assert asked <= 2 * 100 * len("word " + "x" * 40 + "no")


@pytest.mark.parametrize("cut", range(8))
def test_the_first_to_end_wins(cut: int) -> None:
    scanner = StopScanner(["bcd", "abcde", "e"])
    out = scanner.push("xxabcdef"[:cut]) + scanner.push("xxabcdef"[cut:])
    assert out == "xxa"
