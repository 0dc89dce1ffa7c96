from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runner.openai.sse import Event, Parser, TooLong


def parse(*chunks: bytes, max_bytes: int = 1 << 20) -> list[Event]:
    parser = Parser(max_bytes)
    return [e for c in chunks for e in parser.feed(c)] + list(parser.finish())


def outcome(chunks: list[bytes], max_bytes: int) -> tuple[list[Event], bool]:
    """The events, and whether the parser gave up."""
    parser, events = Parser(max_bytes), []
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                events.append(event)  # noqa: PERF402 - what came before the error counts
        events.extend(parser.finish())
    except TooLong:
        return events, True
    return events, False


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        ("data: a\n\ndata: b\n\n", ["a", "b"]),
        ("data:a\n\n", ["a"]),
        ("data:  a\n\n", [" a"]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        ("data: a\r\rdata: b\r\r", ["a", "b"]),
        ("data: a\ndata: b\n\n", ["a\nb"]),
        ("data: a\r\ndata: b\n\r\n", ["a\nb"]),
        (": ping\n\n:\ndata: a\n: ping\n\n", ["a"]),
        ("\n\n\ndata: a\n\n\n\n", ["a"]),
        ("id: 4\nretry: 10\nfoo\ndata: a\n\n", ["a"]),
        ("data\n\n", [""]),
        ("event: ping\n\ndata: a\n\n", ["a"]),
        ("data: a\n", ["a"]),
        ("data: a", ["a"]),
        ("\ufeffdata: é🙂\n\n", ["é🙂"]),
        ("", []),
    ],
)
def test_events(raw: str, events: list[str]) -> None:
    assert [e.data for e in parse(raw.encode())] == events


def test_the_event_name_belongs_to_its_event() -> None:
    assert parse(b"event: error\ndata: a\n\ndata: b\n\n") == [Event("a", "error"), Event("b")]


def test_invalid_utf8_is_replaced() -> None:
    assert [e.data for e in parse(b"data: \xc3(\n\n")] == ["\ufffd("]


lines = st.lists(
    st.one_of(
        st.sampled_from(["data: a", "data:", "data: é€🙂", ": c", "event: x", "", "", "data"]),
        st.text(alphabet="data: é🙂\ufeff", max_size=8),
    ),
    max_size=12,
)


@given(
    lines,
    st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=13, max_size=13),
    st.lists(st.integers(0, 200)),
    st.sampled_from([8, 1 << 20]),
)
def test_any_cutting_gives_the_same_events(
    texts: list[str], ends: list[str], cuts: list[int], max_bytes: int
) -> None:
    raw = "".join(t + e for t, e in zip(texts, ends, strict=False)).encode()
    at = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
    whole = outcome([raw], max_bytes)
    assert outcome([raw[a:b] for a, b in itertools.pairwise(at)], max_bytes) == whole
    assert outcome([raw[i : i + 1] for i in range(len(raw))], max_bytes) == whole


@pytest.mark.parametrize("raw", [b"data: " + b"a" * 200, b"data: aaaa\n" * 40])
def test_size_is_bounded(raw: bytes) -> None:
    with pytest.raises(TooLong):
        parse(raw, max_bytes=100)
    assert parse(raw[:60] + b"\n\n", max_bytes=100)


def test_a_long_line_byte_by_byte_is_linear() -> None:
    def seconds(size: int) -> float:
        raw = b"data: " + b"a" * size
        begin = time.perf_counter()
        parse(*(raw[i : i + 1] for i in range(len(raw))))
        return time.perf_counter() - begin

    seconds(1000)
    assert seconds(160_000) < 40 * seconds(10_000)
