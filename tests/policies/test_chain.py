"""A long text in one piece: screened in strides, and other tasks have their turns."""

from __future__ import annotations

import asyncio

import pytest

from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Filter, Finding, Piece
from policies.chain import STRIDE, ChainScan, Link
from tests.support.filters import Misbehaving

SIZE = 32


def patterns() -> RegexFilter:
    options = {"email": r"[\w.]{1,20}@\w+(?:\.\w+)+", "secret": r"\bsecret \w+"}
    return RegexFilter.from_options("patterns", options, Resources())


def chain(*made: Filter) -> ChainScan:
    return ChainScan([Link(one) for one in made], Context("output"))


async def test_other_tasks_have_a_turn_at_every_stride_of_a_long_text() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    begun = turns
    scan = chain(patterns())
    await scan.feed(Piece("1" * (SIZE * STRIDE)), final=True)
    task.cancel()
    assert turns - begun >= SIZE - 1
    await scan.aclose()


async def test_strides_change_nothing() -> None:
    text = "see secret word or a@b.c and foo, 12 bar. " * (3 * STRIDE // 40)
    found: list[list[Finding]] = []
    for size in (len(text), 7, STRIDE, STRIDE + 1):
        scan, findings = chain(patterns()), list[Finding]()
        for at in range(0, len(text), size):
            piece = Piece(text[at : at + size])
            findings += (await scan.feed(piece, final=at + size >= len(text))).findings
        found.append(findings)
        await scan.aclose()
    assert len(found[0]) > 100
    assert all(one == found[0] for one in found)


async def test_a_filter_that_fails_at_one_stride_is_asked_no_more() -> None:
    scan = chain(Misbehaving("raises", immediate=True), patterns())
    text = " " * STRIDE + "now" + " " * STRIDE + "secret word now" + " " * STRIDE
    step = await scan.feed(Piece(text), final=True)
    assert [fault.filter for fault in scan.faults] == ["raises"]
    assert step.settled == len(text)
    assert [text[f.span.start : f.span.end] for f in step.findings] == ["secret word"]


class Named(Misbehaving):
    """Raises under a name of its own, as no other test's lines in the log are about it."""

    def __init__(self, name: str) -> None:
        super().__init__("raises")
        self.name = name


async def test_why_a_filter_fails_is_logged_once_a_second_and_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        await chain(Named("logged")).feed(Piece("private now"), final=True)
    [line] = [r.getMessage() for r in caplog.records if r.name == "gardefou.filters"]
    assert line.startswith("`logged` fails (block): ValueError at filters.py:")
    assert "private" not in line
