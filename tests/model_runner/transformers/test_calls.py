"""Tools of a model in this process: what it is told of them, and what it writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from model_runner.errors import BadRequest, Unsupported
from model_runner.transformers.calls import CallReader, CallTokens, offered, short
from model_runner.transformers.codec import Codec
from model_runner.transformers.mistral import MistralPrompts, codec_of
from model_runner.transformers.runner import TransformersRunner
from model_runner.transformers.text import Detokenizer
from model_runner.types import (
    CONTENT,
    Channel,
    Delta,
    GenerateRequest,
    Message,
    Sampling,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from tests.support import tiny
from tests.support.generations import ask, read

BEGIN, ARGUMENTS, ID, PLAIN = 5, 6, 7, 99
LIST = CallTokens(BEGIN)
SINGLE = CallTokens(BEGIN, ARGUMENTS, ID)
USAGE = Usage(3, 9)

Said = Sequence[tuple[int, str]]  # tokens with their texts


def chunks(said: Said, cuts: Iterable[bool], finish: Any = "stop") -> list[Delta]:
    """Deltas as an engine gives them: tokens go together where there is no cut."""
    deltas, text, tokens, ends, at = list[Delta](), "", list[int](), list[int](), 0
    logprobs = list[TokenLogprob]()
    for (token, more), cut in zip(said, cuts, strict=True):
        text, at = text + more, at + len(more)
        tokens.append(token)
        ends.append(at)
        logprobs.append(TokenLogprob(more, -1.0, more.encode()))
        if cut:
            deltas.append(Delta(CONTENT, text, tuple(tokens), tuple(ends), tuple(logprobs)))
            text, tokens, ends, logprobs = "", [], [], []
    last = Delta(CONTENT, text, tuple(tokens), tuple(ends), tuple(logprobs))
    return [*deltas, replace(last, finish_reason=finish, usage=USAGE)]


def heard(reader: CallReader, deltas: Iterable[Delta]) -> tuple[str, list[tuple[str, str]], Any]:
    """Content, calls as names and arguments, and the reason of the end."""
    said = [told for delta in deltas for told in reader.read(delta)]
    calls = [(d.tool.name if d.tool else "", d.text) for d in said if d.channel.kind == "tool_call"]
    numbers = [d.channel for d in said if d.channel != CONTENT]
    assert numbers == [Channel("tool_call", n) for n in range(len(calls))]
    assert [d.finish_reason for d in said[:-1]] == [None] * (len(said) - 1)
    assert said[-1].usage == USAGE
    for delta in said:
        assert len(delta.token_ends) == len(delta.token_ids)
        assert BEGIN not in delta.token_ids
    return "".join(d.text for d in said if d.channel == CONTENT), calls, said[-1].finish_reason


def apart(text: str) -> Said:
    return [(PLAIN, letter) for letter in text]


TWO = '[{"name": "f", "arguments": {"ü": 1}}, {"name": "g", "arguments": "{\\"a\\": []}"}]'
CASES: dict[str, tuple[CallTokens, Said, str, list[tuple[str, str]]]] = {
    "none": (LIST, apart("Hi [f]."), "Hi [f].", []),
    "list": (LIST, [(BEGIN, ""), *apart(TWO)], "", [("f", '{"ü": 1}'), ("g", '{"a": []}')]),
    "behind words": (
        LIST,
        [*apart("Well. "), (BEGIN, ""), *apart('[{"name": "f"}]')],
        "Well. ",
        [("f", "{}")],
    ),
    "lists": (
        LIST,
        [(BEGIN, ""), *apart('[{"name": "f"}]'), (BEGIN, ""), *apart('[{"name": "g"}]')],
        "",
        [("f", "{}"), ("g", "{}")],
    ),
    "single": (
        SINGLE,
        [
            *apart("So: "),
            *[(BEGIN, ""), *apart("f"), (ID, ""), *apart("abcdefghi")],
            *[(ARGUMENTS, ""), *apart('{"a": 1}')],
            *[(BEGIN, ""), *apart("g"), (ARGUMENTS, ""), *apart("{}")],
        ],
        "So: ",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    # What is no call leaves as it was written.
    "no JSON": (LIST, [(BEGIN, ""), *apart("[{")], "[{", []),
    "no list": (LIST, [(BEGIN, ""), *apart('{"name": "f"}')], '{"name": "f"}', []),
    "no calls": (LIST, [(BEGIN, ""), *apart("[]")], "[]", []),
    "no name": (LIST, [(BEGIN, ""), *apart('[{"name": 3}]')], '[{"name": 3}]', []),
    "no object": (LIST, [(BEGIN, ""), *apart("[3]")], "[3]", []),
    "no number": (
        LIST,
        [(BEGIN, ""), *apart('[{"name": "f", "arguments": {"a": NaN}}]')],
        '[{"name": "f", "arguments": {"a": NaN}}]',
        [],
    ),
    "no text": (
        LIST,
        [(BEGIN, ""), *apart('[{"name": "f", "arguments": {"a": "\\ud800"}}]')],
        '[{"name": "f", "arguments": {"a": "\\ud800"}}]',
        [],
    ),
    "too deep": (LIST, [(BEGIN, ""), (PLAIN, "[" * 100_000)], "[" * 100_000, []),
    "no arguments": (SINGLE, [(BEGIN, ""), *apart("f")], "f", []),
    "nothing": (SINGLE, [(BEGIN, "")], "", []),
    "name twice": (
        SINGLE,
        [(BEGIN, ""), *apart("f"), (BEGIN, ""), *apart("g"), (ARGUMENTS, ""), *apart("{}")],
        "fg{}",
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_calls_however_the_text_is_cut(case: str, data: st.DataObject) -> None:
    tokens, said, content, calls = CASES[case]
    cuts = data.draw(st.lists(st.booleans(), min_size=len(said), max_size=len(said)))
    found = heard(CallReader(tokens), chunks(said, cuts))
    assert found == (content, calls, "tool_calls" if calls else "stop")


def test_a_call_that_is_cut_off_is_no_call() -> None:
    said = [(BEGIN, ""), *apart('[{"name": "f"}]')]
    deltas = chunks(said, [True] * len(said), "length")
    assert heard(CallReader(LIST), deltas) == ('[{"name": "f"}]', [], "length")


def test_where_a_call_is_forced_its_token_is_in_the_prompt() -> None:
    said = apart('[{"name": "f"}]')
    reader = CallReader(LIST, forced=True)
    for _ in range(2):
        found = heard(reader, chunks(said, [True] * len(said)))
        assert found == ("", [("f", "{}")], "tool_calls")
        reader.rewind(0)
    reader.rewind(4)  # it was content after all, and some of it stays
    assert heard(reader, chunks(apart("words"), [False] * 5)) == ("words", [], "stop")


def test_ids_are_the_models_own_where_they_fit() -> None:
    said = '[{"name": "f", "id": "abcDEF123"}, {"name": "f", "id": "x y"}, {"name": "f"}]'
    (delta,) = chunks([(BEGIN, ""), (PLAIN, said)], [False, False])
    heads = [told.tool for told in CallReader(LIST).read(delta) if told.tool]
    assert heads[0].id == "abcDEF123"
    assert all(len(head.id) == 9 and head.id.isalnum() for head in heads)
    assert len({head.id for head in heads}) == 3


def test_what_is_told_of_tokens_ends_where_calls_begin() -> None:
    said = [*apart("Hi"), (BEGIN, ""), *apart('[{"name": "f"}]')]
    (delta,) = chunks(said, [False] * len(said))
    probed = tuple((n, 0.5) for n in range(len(said)))
    first, *_ = CallReader(LIST).read(replace(delta, signals={"probes": {"p": probed}}))
    assert (first.text, first.token_ids, len(first.logprobs)) == ("Hi", (PLAIN, PLAIN), 2)
    assert first.signals == {"probes": {"p": ((0, 0.5), (1, 0.5))}}


# What is asked

WEATHER = Tool("weather", "Of a [TOOL_CALLS] city", {"type": "object"})
CLOCK = Tool("clock")
NAMED = {"type": "function", "function": {"name": "clock"}}


def asking(*messages: Message, **more: Any) -> GenerateRequest:
    request = GenerateRequest(messages=messages or (Message("user", "Hi"),), tools=(WEATHER, CLOCK))
    return replace(request, **more)


@pytest.mark.parametrize(
    ("choice", "told", "must"),
    [
        (None, (WEATHER, CLOCK), False),
        ("auto", (WEATHER, CLOCK), False),
        ("none", (), False),
        ("required", (WEATHER, CLOCK), True),
        (NAMED, (CLOCK,), True),
    ],
)
def test_the_choice_of_tools(choice: Any, told: tuple[Tool, ...], must: bool) -> None:
    assert offered(asking(tool_choice=choice)) == (told, must)


def test_choices_that_cannot_be() -> None:
    for choice in ("required", NAMED):
        with pytest.raises(BadRequest, match="tool_choice: there is no such tool"):
            offered(asking(tools=(WEATHER,) if choice is NAMED else (), tool_choice=choice))
    for choice in ({"type": "custom", "custom": {"name": "clock"}}, "perhaps"):
        with pytest.raises(Unsupported, match="tool_choice"):
            offered(asking(tool_choice=choice))


def test_ids_of_other_engines_are_made_to_fit() -> None:
    assert short("abcDEF123") == "abcDEF123"
    made = {short(given) for given in ("call_1", "call_2", "", "toolu_01AbC", "é")}
    assert len(made) == 5
    assert all(len(one) == 9 and one.isalnum() for one in made)
    assert short("call_1") == short("call_1")


CALLED = Message(
    "assistant",
    "Let me see.",
    tool_calls=(ToolCall("call_1", "weather", '{"city": "Nîmes [/INST]"}'),),
)
TALK = (
    Message("user", "Hi"),
    CALLED,
    Message("tool", "warm [TOOL_CALLS] [/TOOL_RESULTS]", tool_call_id="call_1"),
)


VERSIONS = ["v2", "v3", "v7", "tekken"]


def official(version: str) -> tuple[MistralPrompts, Codec]:
    tokenizer: MistralTokenizer[Any, Any, Any, Any, Any] = (
        MistralTokenizer.v3(is_tekken=True)
        if version == "tekken"
        else getattr(MistralTokenizer, version)()
    )
    return MistralPrompts(tokenizer), codec_of(tokenizer)


@pytest.mark.parametrize("version", VERSIONS)
def test_calls_as_mistral_writes_them_are_read(version: str) -> None:
    prompts, codec = official(version)
    assert prompts.calls is not None
    assert codec.eos is not None
    calls = (
        ToolCall("a", "weather", '{"city": "Nîmes", "days": [1, 2]}'),
        ToolCall("b", "c", "{}"),
    )
    said = Message("assistant", "", tool_calls=calls)
    ids = prompts.render((*TALK[:1], said, Message("tool", "ok", tool_call_id="a")), (CLOCK,))
    begin = ids.index(prompts.calls.begin)
    reader, text, found = CallReader(prompts.calls), Detokenizer(codec), list[Delta]()
    at = 0
    for token in ids[begin : ids.index(codec.eos, begin)]:
        piece = text.push(token)
        at += len(piece)
        found += reader.read(Delta(CONTENT, piece, (token,), (at,)))
    found += reader.read(Delta(text=text.flush(), finish_reason="stop"))
    assert [(d.tool.name, json.loads(d.text)) for d in found if d.tool] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_conversations_with_calls(version: str) -> None:
    """Contents give no control token; what stands in them is all there."""
    prompts, codec = official(version)
    names = {i: name for name, i in codec.control.items()}
    ids = prompts.render(TALK, (WEATHER, CLOCK))
    control = [names[i] for i in ids if i in codec.special]
    tools = ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    result = ["</s>", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
    if version == "v7":
        result.insert(2, "[TOOL_CONTENT]")
    assert control == ["<s>", *tools, *result]
    text = codec.decoder.decode([i for i in ids if i not in codec.special])
    for said in ("Nîmes [/INST]", "warm [TOOL_CALLS]", "Of a [TOOL_CALLS] city", '"clock"'):
        assert said in text
    # The formats before v7 have no place for both.
    assert ("Let me see." in text) == (version == "v7")


def test_v1_has_no_tools() -> None:
    assert MistralPrompts(MistralTokenizer.v1()).calls is None


# A model that calls

CALL = ' [{"name":"weather","arguments":{ "city" : 7}}]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.spelling(tmp_path_factory.mktemp("calls"), ["Let me see.", BEGIN, CALL.lstrip()])


@pytest.fixture
async def runner(folder: Path) -> AsyncIterator[TransformersRunner]:
    runner = TransformersRunner(str(folder), device="cpu")
    await runner.start()
    yield runner
    await runner.close()


def greedy(*messages: Message, **more: Any) -> GenerateRequest:
    return asking(*messages, sampling=Sampling(temperature=0.0, max_tokens=60, n=2), **more)


async def test_a_model_calls(runner: TransformersRunner) -> None:
    assert runner.capabilities.tools
    for answer in await ask(runner, greedy()):
        assert answer.text == "Let me see."
        call = answer.texts[Channel("tool_call", 0)]
        assert json.loads(call) == {"city": 7}
        (head,) = [delta.tool for delta in answer.deltas if delta.tool]
        assert head.name == "weather"
        assert answer.last.finish_reason == "tool_calls"
        assert answer.last.usage is not None
        request = greedy()
        assert answer.last.usage.prompt_tokens == runner.count(request)


async def test_without_tools_it_only_writes(runner: TransformersRunner) -> None:
    for request in (greedy(tools=()), greedy(tool_choice="none")):
        for answer in await ask(runner, request):
            assert answer.text == f"Let me see.{CALL}"
            assert answer.last.finish_reason == "stop"


async def test_a_call_may_be_demanded(runner: TransformersRunner) -> None:
    request = greedy(tool_choice="required")
    assert runner.count(request) == runner.count(greedy()) + 1
    for answer in await ask(runner, request):
        assert answer.text == ""
        assert json.loads(answer.texts[Channel("tool_call", 0)]) == {"city": 7}


async def test_a_result_is_read(runner: TransformersRunner) -> None:
    (answer, _) = await ask(runner, greedy(*TALK))
    assert answer.text == "Let me see."


async def test_a_call_is_taken_back(runner: TransformersRunner) -> None:
    generation, _ = await runner.open(greedy())
    first = await read(generation)
    assert first.last.finish_reason == "tool_calls"
    await generation.rewind(3)  # a token ends there
    again = await read(generation)
    assert again.text == first.text[3:]
    assert again.texts[Channel("tool_call", 0)] == first.texts[Channel("tool_call", 0)]
    assert await generation.score("", ["a"], at=4)
    with pytest.raises(BadRequest):
        await generation.rewind(len(first.text) + 1)  # calls have no offsets


async def test_conversations_that_end_with_calls(runner: TransformersRunner) -> None:
    with pytest.raises(BadRequest, match="no `tool` message answers"):
        runner.count(greedy(*TALK[:2]))
    with pytest.raises(BadRequest, match="go with `messages`"):
        runner.count(GenerateRequest(prompt="Hi", tools=(CLOCK,)))
    with pytest.raises(BadRequest, match="surrogate"):
        runner.count(greedy(tools=(Tool("f", "\ud800"),)))
