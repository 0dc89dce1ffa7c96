from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from filters.types import Finding, Span
from gateway.offsets import Offsets
from policies.types import Action, Hit, Release


def hit(start: int, end: int) -> Hit:
    return Hit(Finding("f", "c", Span(start, end)), "rule", Action.FLAG)


def test_what_stands_behind_a_placeholder_is_where_the_reader_sees_it() -> None:
    said, sent = "write to a.long.name@example.org, foo.", "write to [EMAIL], foo."
    offsets = Offsets()
    offsets.add(Release(sent, 0, len(said), (Span(9, 32),), ("[EMAIL]",)))
    at = said.index("foo")
    span = offsets.hit(hit(at, at + 3)).finding.span
    assert sent[span.start : span.end] == "foo"
    assert offsets.checked(len(said)) == len(sent)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_no_offset_tells_how_long_a_cut_was(one: int, other: int, data: st.DataObject) -> None:
    found = []
    for length in (one, other):
        offsets = Offsets()
        offsets.add(Release("ab[X]", 0, 2 + length, (Span(2, 2 + length),), ("[X]",)))
        start = data.draw(st.integers(2, 1 + length))
        end = data.draw(st.integers(start, 2 + length).filter(lambda at: at > 2))
        found.append(offsets.hit(hit(start, end)).finding.span)
    assert found == [Span(2, 5)] * 2


@given(st.lists(st.integers(0, 40), min_size=2))
def test_what_is_checked_never_goes_back(ends: list[int]) -> None:
    offsets = Offsets()
    told = []
    for number, end in enumerate(ends):
        told.append(offsets.checked(end))
        at = 10 * number
        offsets.add(Release("[X]", at, at + 10, (Span(at, at + 10),), ("[X]",)))
    assert told == sorted(told)
