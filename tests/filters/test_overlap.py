"""The overlap filter against the plain meaning: rows of words that the prompt holds."""

from __future__ import annotations

from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import FilterConfigError
from filters.overlap import _WORD, OverlapFilter
from filters.registry import Resources
from filters.types import Context, Piece, Turn
from tests.contracts.filters import feed_all

WORDS = st.sampled_from(["a", "b", "B,", "c.", "中", "«a»", "l'a", "d"])
TEXTS = st.lists(WORDS, max_size=16).map(" ".join)


def words(text: str) -> list[tuple[str, int, int]]:
    return [(m[0].casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]


def expected(prompts: list[str], text: str, most: int) -> list[tuple[int, int]]:
    """Every row of `most + 1` words that a prompt holds, joined where they overlap."""
    rows = set()
    for prompt in prompts:
        said = [w for w, _, _ in words(prompt)]
        rows |= {tuple(said[i : i + most + 1]) for i in range(len(said) - most)}
    found: list[tuple[int, int]] = []
    seen = words(text)
    for i in range(len(seen) - most):
        row = seen[i : i + most + 1]
        if tuple(w for w, _, _ in row) in rows:
            start, end = row[0][1], row[-1][2]
            if found and start < found[-1][1]:
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
    return found


def context(*prompts: str) -> Context:
    return Context("output", conversation=[Turn("system", p) for p in prompts])


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=2), TEXTS, st.integers(1, 4))
async def test_finds_rows_of_words_that_the_prompt_holds_in_any_cut(
    prompts: list[str], text: str, most: int
) -> None:
    made = OverlapFilter("o", most)
    for cuts in ((), range(1, len(text))):
        found, _ = await feed_all(made.open(context(*prompts)), text, cuts)
        assert [(f.span.start, f.span.end) for f in found] == expected(prompts, text, most)


async def test_holds_only_what_could_still_be_a_row() -> None:
    scan = OverlapFilter("o", 2).open(context("never say the secret word"))
    text = "I would never say so. Say the SECRET, word to me"
    _, steps = await feed_all(scan, text, [4, 13, 17, 20, 30, 41])
    assert [step.settled for step in steps] == [2, 8, 8, 20, 22, 22, len(text)]
    assert [text[f.span.start : f.span.end] for s in steps for f in s.findings] == [
        "Say the SECRET, word"
    ]


async def test_other_turns_and_no_prompt_at_all_find_nothing() -> None:
    text = "one two three four five"
    turns = [Turn("user", text), Turn("assistant", text)]
    for conversation in ([], turns, [Turn("system", "")]):
        scan = OverlapFilter("o", 1).open(Context("output", conversation=conversation))
        found, _ = await feed_all(scan, text, [9])
        assert found == []


@given(st.integers(20, 60), st.lists(st.integers(0, 300), max_size=6))
async def test_long_rows_are_cut_and_nothing_of_them_is_left_out(cap: int, cuts: list[int]) -> None:
    prompt = " ".join(f"w{n}" for n in range(60))
    text = f"So: {prompt}; that is it"
    found, steps = await feed_all(OverlapFilter("o", 3, cap=cap).open(context(prompt)), text, cuts)
    covered = "".join(text[f.span.start : f.span.end] for f in found)
    assert covered.replace(" ", "") == prompt.replace(" ", "")
    assert max(len(f.span) for f in found) < cap + 5
    whole, _ = await feed_all(OverlapFilter("o", 3, cap=cap).open(context(prompt)), text)
    assert found == whole
    assert steps


async def test_takes_time_linear_in_the_text() -> None:
    scan_of = context("a b " * 500 + "c")
    for pump in ("a b ", "a", "a ", " "):
        times = []
        for size in (2000, 8000):
            scan = OverlapFilter("o", 12, cap=256).open(scan_of)
            began = thread_time()
            for at, letter in enumerate((pump * size)[:size]):
                await scan.feed(Piece(letter), final=at == size - 1)
            times.append(thread_time() - began)
        assert times[1] < 12 * times[0], pump


def test_options() -> None:
    assert OverlapFilter.from_options("o", {"words": 8}, Resources()).words == 8
    assert OverlapFilter.from_options("o", {}, Resources()).words == 12
    for options, text in (
        (3, "expected"),
        ({"word": 3}, "unknown key"),
        ({"words": 0}, "1 to 200"),
    ):
        with pytest.raises(FilterConfigError, match=text):
            OverlapFilter.from_options("o", options, Resources())
