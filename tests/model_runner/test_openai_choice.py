"""Chunks of one choice to deltas, and where tokens end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runner.errors import EngineFailed
from model_runner.openai.align import Aligner
from model_runner.openai.choice import ChoiceReader
from model_runner.openai.chunks import ChunkChoice
from model_runner.openai.stream import share
from model_runner.types import CONTENT, REASONING, Channel, Delta, ToolHead


def read_all(*choices: dict[str, object], logprobs: bool = False) -> list[Delta]:
    reader = ChoiceReader(logprobs=logprobs)
    return [
        delta
        for choice in choices
        for delta in reader.read(ChunkChoice.model_validate({"index": 0, **choice}))
    ]


def call(**told: object) -> dict[str, object]:
    function = {k: told.pop(k) for k in ("name", "arguments") if k in told}
    return {"delta": {"tool_calls": [{**told, "function": function}]}}


def told(*tokens: str) -> dict[str, object]:
    return {"content": [{"token": t, "logprob": -1.0} for t in tokens]}


def test_the_bytes_of_a_token_count_whatever_its_text_says() -> None:
    token = {"token": "hidden", "logprob": -1.0, "bytes": [*b"Hi"]}
    half = {"token": "bytes:\\xc3", "logprob": -2.0, "bytes": [0xC3]}
    logprobs = {"content": [token | {"top_logprobs": [token, half]}]}
    (delta,) = read_all({"delta": {"content": "Hi"}, "logprobs": logprobs}, logprobs=True)
    (said,) = delta.logprobs
    assert (said.text, said.bytes) == ("Hi", b"Hi")
    assert [(one.text, one.bytes) for one in said.top] == [("Hi", b"Hi"), ("\ufffd", b"\xc3")]


# Tool calls


def heads(deltas: list[Delta]) -> dict[int, ToolHead]:
    return {d.channel.index: d.tool for d in deltas if d.tool}


def arguments(deltas: list[Delta], index: int = 0) -> str:
    return "".join(d.text for d in deltas if d.channel == Channel("tool_call", index))


@pytest.mark.parametrize(
    "told",
    [
        [call(index=0, id="c", name="search", arguments='{"q": 1}')],
        [
            call(index=0, id="c", name="sea"),
            call(index=0, name="rch", arguments=""),
            call(index=0, arguments='{"q"'),
            call(index=0, arguments=": 1}"),
        ],
        [
            call(index=0, id="c", name="search", arguments=""),
            call(index=0, id="c", name="search", arguments='{"q": '),
            call(index=0, id="c", name="search", arguments="1}"),
        ],
        [call(id="c", name="search"), call(arguments='{"q": 1}')],
    ],
)
def test_a_call_in_whatever_pieces(told: list[dict[str, object]]) -> None:
    deltas = read_all(*told, {"finish_reason": "tool_calls"})
    assert heads(deltas) == {0: ToolHead("c", "search")}
    assert deltas[0].tool is not None
    assert arguments(deltas) == '{"q": 1}'


def test_calls_without_index_or_arguments() -> None:
    deltas = read_all(
        call(id="a", name="first"),
        call(id="b", name="second", arguments="{}"),
        call(id="c", name="third"),
        {"finish_reason": "tool_calls"},
    )
    assert {i: h.name for i, h in heads(deltas).items()} == {0: "first", 1: "second", 2: "third"}
    assert [arguments(deltas, i) for i in range(3)] == ["", "{}", ""]


def test_a_call_without_an_id_gets_one() -> None:
    (delta,) = read_all(call(index=0, name="f", arguments="{}"))
    assert delta.tool is not None
    assert delta.tool.id.startswith("call_")


def test_the_legacy_function_call() -> None:
    deltas = read_all(
        {"delta": {"function_call": {"name": "f", "arguments": "{"}}},
        {"delta": {"function_call": {"arguments": "}"}}, "finish_reason": "function_call"},
    )
    assert heads(deltas)[0].name == "f"
    assert arguments(deltas) == "{}"


def test_too_many_calls_fail() -> None:
    with pytest.raises(EngineFailed):
        read_all(*(call(id=str(i), name="f") for i in range(300)))


# Ends


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("max_tokens", "length"),
        ("eos_token", "stop"),
        ("SomethingNew", "stop"),
    ],
)
def test_finish_reasons(said: str, reason: str) -> None:
    reader = ChoiceReader(logprobs=False)
    reader.read(ChunkChoice.model_validate({"index": 0, "finish_reason": said}))
    assert reader.finish_reason == reason


@given(st.integers(0, 10_000), st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_shares_sum_to_the_total(total: int, weights: list[int]) -> None:
    shares = share(total, weights)
    assert sum(shares) == total
    for part, weight in zip(shares, weights, strict=True):
        if sum(weights):
            assert abs(part - total * weight / sum(weights)) < 1


# Text and tokens


def test_reasoning_by_either_name_and_text_with_the_finish_reason() -> None:
    deltas = read_all(
        {"delta": {"reasoning_content": "a", "reasoning": "a"}},
        {"delta": {"reasoning": "b"}},
        {"delta": {"role": "assistant", "content": "c"}, "finish_reason": "stop"},
    )
    assert [(d.channel, d.text) for d in deltas] == [
        (REASONING, "a"),
        (REASONING, "b"),
        (CONTENT, "c"),
    ]


def test_tokens_of_the_reasoning_stay_with_it() -> None:
    deltas = read_all(
        {"delta": {"reasoning_content": "hm"}, "logprobs": told("hm")},
        {"delta": {"content": "yes"}, "logprobs": told("yes")},
        call(index=0, id="c", name="f", arguments="{}") | {"logprobs": told("{}")},
        logprobs=True,
    )
    assert [(d.channel.kind, d.token_ends, len(d.logprobs)) for d in deltas] == [
        ("reasoning", (2,), 1),
        ("content", (3,), 1),
        ("tool_call", (), 0),
    ]


def test_logprobs_that_nobody_asked_for_are_left_out() -> None:
    (delta,) = read_all({"delta": {"content": "yes"}, "logprobs": told("yes")})
    assert delta == Delta(text="yes")


def code_points(data: bytes) -> int:
    return sum(byte & 0xC0 != 0x80 for byte in data)


@given(st.text(max_size=30), st.lists(st.integers(0, 120)), st.data())
def test_tokens_are_placed_wherever_they_are_cut_and_however_the_text_lags(
    text: str, cuts: list[int], data: st.DataObject
) -> None:
    raw = text.encode()
    at = [0, *sorted({c for c in cuts if 0 < c < len(raw)}), len(raw)]
    aligner, sent = Aligner(), 0
    assert aligner.step(" ", [b" "]) == (1,)  # an engine that tells leading blanks
    for begin, end in pairwise(at):
        held = data.draw(st.integers(0, 3))
        ready = max(sent, len(raw[:end].decode(errors="ignore")) - held)
        assert aligner.step(text[sent:ready], [raw[begin:end]]) == (1 + code_points(raw[:end]),)
        sent = ready


WORDS = ["Bonjour", "le", "monde", ".", "Ça", "va", "bien", "?"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.data())
def test_engines_that_leave_out_blanks_never_place_a_token_too_soon(
    words: list[str], data: st.DataObject
) -> None:
    text = " ".join(words)
    aligner, sent, end = Aligner(), 0, 0
    for i, word in enumerate(words):
        end += len(word) + bool(i)
        ready = max(sent, end - data.draw(st.integers(0, 5)))
        ends = aligner.step(text[sent:ready], [word.encode()])
        sent = ready
        if ends is not None:
            assert end <= ends[0] <= end + len(words)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_engines_that_leave_out_blanks_are_exact_where_text_and_token_come_together(
    words: list[str],
) -> None:
    aligner, length = Aligner(), 0
    for i, word in enumerate(words):
        text = " " * bool(i) + word
        length += len(text)
        assert aligner.step(text, [word.encode()]) == (length,)


def test_a_token_that_fits_nowhere_ends_with_the_text() -> None:
    aligner = Aligner()
    assert aligner.step("abc", [b"</s>"]) == (3,)
    assert aligner.step("de", [b"de"]) == (5,)


def test_tokens_ahead_of_another_text_are_given_up() -> None:
    aligner = Aligner()
    assert aligner.step("", [b" abc", b" def"]) == (4, 8)
    assert aligner.step("xyz", [b"g"]) is None
    assert aligner.step("abc", [b"abc"]) is None
    deltas = read_all(
        {"delta": {"content": ""}, "logprobs": told("abc")},
        {"delta": {"content": "xyz"}, "logprobs": told("def")},
        logprobs=True,
    )
    assert [(d.text, len(d.logprobs)) for d in deltas] == [("", 1), ("xyz", 0)]
