"""Every way in and every way out, of every dialect, walked by the official clients' own types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anthropic.types.message_create_params as messages
import openai.types.chat.completion_create_params as chat
import openai.types.completion_create_params as completions
import openai.types.responses.response_create_params as responses
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from redis.asyncio import Redis

from filters.registry import Resources
from filters.types import Scorer
from model_runner.openai import OpenAIRunner
from model_runner.script import Step, pieces, say, tool_call
from model_runner.scripted import ScriptedRunner
from model_runner.types import (
    REASONING,
    REFUSAL,
    Channel,
    Delta,
    GenerateRequest,
    Sampling,
    ToolHead,
)
from tests.support.filters import WordScorer
from tests.support.gateway import Gateway, serving
from tests.support.openai_server import Faults, OpenAIServer
from tests.support.profiles import invariant, seconds
from tests.support.request_types import fills

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
#: What every request of a dialect has.
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    COMPLETIONS: {"prompt": "Go on:\n"},
    RESPONSES: {"input": "Hello"},
    MESSAGES: {"max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]},
}
TYPES: dict[str, Any] = {
    CHAT: chat.CompletionCreateParamsNonStreaming,
    COMPLETIONS: completions.CompletionCreateParamsNonStreaming,
    RESPONSES: responses.ResponseCreateParamsNonStreaming,
    MESSAGES: messages.MessageCreateParamsNonStreaming,
}
#: Strings that are taken, have no effect and are not sent to the model, by where they stand.
WITHOUT_EFFECT: dict[str, set[str]] = {
    CHAT: {"user", "safety_identifier", "prompt_cache_key", "metadata.key"},
    COMPLETIONS: {"user"},
    RESPONSES: {
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "metadata.key",
        "input[1].id",
        # Items of reasoning are dropped.
        "input[1].summary[0].text",
        "input[1].content[0].text",
        # Log probabilities of an earlier answer, sent back.
        "input[1].content[0].logprobs[0].token",
        "input[1].content[0].logprobs[0].top_logprobs[0].token",
    },
    MESSAGES: {"metadata.user_id"},
}
# Letters that no hexadecimal id, no number and no name of a field has three of in a row.
SECRET = "zyxwvqkjzhw"
POLICY = """\
policy: secret
mode: enforce
on_error: block
filters:
  secret: {{regex: {{secret: {{terms: [{secret}]}}}}}}
input:
  - id: in
    when: {{secret: any}}
    do: block
    examples: {{hit: ["{secret}"], pass: ["x"]}}
output:
  - id: out
    when: {{secret: any}}
    do: {do}
    examples: {{hit: {hit}, pass: ["x"]}}
"""


def policy(folder: Path, do: str) -> str:
    hit = f'["{SECRET}"]' if do == "block" else f'{{"{SECRET}": "[SECRET]"}}'
    path = folder / f"{do}.yaml"
    path.write_text(POLICY.format(secret=SECRET, do=do, hit=hit), encoding="utf-8")
    return str(path)


# Every way in


@pytest.mark.parametrize("path", LEAST)
async def test_every_string_of_a_request_is_screened_or_refused(
    redis: Redis, tmp_path: Path, path: str
) -> None:
    runner = ScriptedRunner.text("Yes.")
    taken: set[str] = set()
    screened: set[str] = set()
    async with serving(runner, redis, policy=[policy(tmp_path, "block")]) as gateway:
        least = {"model": "scripted"} | LEAST[path]
        status, _ = await gateway.call(path, least)
        assert status == 200
        for place, value in fills(TYPES[path], SECRET):
            place = place.lstrip(".")
            field = place.split(".")[0].split("[")[0]
            runner.requests.clear()
            filled = value[field]
            if field == "input" and isinstance(filled, list):
                place = place.replace("input[0]", "input[1]")
                filled = [{"role": "user", "content": "Hello"}, *filled]
            status, raw = await gateway.call(path, least | {field: filled})
            if status == 200:
                taken.add(place)
                assert SECRET not in repr(runner.requests), f"{place} reaches the model unscreened"
                continue
            assert runner.requests == [], place
            error = json.loads(raw)["error"]
            if error.get("code") == "content_filter":
                screened.add(place)
            elif place == "model":
                assert (status, error.get("code")) in {(404, "model_not_found"), (404, None)}
            else:
                assert status == 400, (place, raw)
                assert names(error["param"], place), (place, error)
                assert error["param"] in error["message"]
    assert taken == WITHOUT_EFFECT[path]
    assert MUST_SCREEN[path] <= screened


#: So that the walk cannot pass by everything being refused.
MUST_SCREEN: dict[str, set[str]] = {
    CHAT: {
        "messages[0].content",
        "messages[0].content[0].text",
        "messages[0].name",
        "messages[0].refusal",
        "messages[0].tool_call_id",
        "messages[0].tool_calls[0].id",
        "messages[0].tool_calls[0].function.name",
        "messages[0].tool_calls[0].function.arguments",
        "tools[0].function.name",
        "tools[0].function.description",
        "tools[0].function.parameters.key",
        "tool_choice.custom.name",  # of functions it must be a name that `tools` has
        "stop",
        "stop[0]",
    },
    COMPLETIONS: {"prompt", "prompt[0]", "stop", "stop[0]"},
    RESPONSES: {
        "input",
        "input[1].content",
        "input[1].content[0].text",
        "input[1].content[0].refusal",
        "input[1].name",
        "input[1].arguments",
        "input[1].call_id",
        "input[1].output",
        "input[1].output[0].text",
        "instructions",
        "tools[0].name",
        "tools[0].description",
        "tools[0].parameters.key",
    },
    MESSAGES: {
        "system",
        "system[0].text",
        "messages[0].content",
        "messages[0].content[0].text",
        "messages[0].content[0].id",
        "messages[0].content[0].name",
        "messages[0].content[0].input.key",
        "messages[0].content[0].input.key.deep",
        "messages[0].content[0].tool_use_id",
        "messages[0].content[0].content",
        "messages[0].content[0].content[0].text",
        "tools[0].name",
        "tools[0].description",
        "tools[0].input_schema.key",
        "stop_sequences[0]",
    },
}


def names(param: str, place: str) -> bool:
    """Whether an error about `param` is about the string at `place`.

    A part of a type that cannot be screened is refused by its type, a message by its role.
    """
    param = param.removesuffix(".type").removesuffix(".role")
    return place == param or place.startswith((f"{param}.", f"{param}[")) or param == place


# Every way out


def ways(cut: int) -> Iterator[tuple[str, Sequence[Step]]]:
    """An answer for each string that an engine can send, with the secret in it."""
    said = f"It is {SECRET} indeed"
    asked = GenerateRequest(prompt="", sampling=Sampling(logprobs=2))
    yield "content", say(said, cut=cut)(asked)[0]
    yield "reasoning", [*pieces(said, REASONING, cut=cut), "Done."]
    yield "refusal", pieces(said, REFUSAL, cut=cut)
    for number, arguments in enumerate(
        (
            json.dumps({"a": [{"b": said}]}),
            json.dumps({said: 1}),
            said,
            json.dumps({"a": said}).replace("w", "\\u0077"),
        )
    ):
        yield f"arguments {number}", ["Ok. ", *tool_call("go", arguments, cut=cut)]
    yield "name", ["Ok. ", *tool_call(said, "{}")]
    channel = Channel("tool_call")
    yield "id", ["Ok. ", Delta(channel=channel, tool=ToolHead(said, "go")), *pieces("{}", channel)]


@pytest.mark.parametrize("do", ["block", "redact"])
async def test_no_piece_of_a_secret_leaves_by_any_way(
    redis: Redis, tmp_path: Path, do: str
) -> None:
    now: list[Sequence[Step]] = []
    runner = ScriptedRunner(lambda _request: now)
    async with serving(runner, redis, policy=[policy(tmp_path, do)]) as gateway:
        for cut in (1, 4, 99):
            for way, steps in ways(cut):
                now[:] = [steps]
                for path in LEAST:
                    stopped = '"refusal"' if path == MESSAGES else '"content_filter"'
                    for stream in (False, True):
                        raw = await sent(gateway, path, stream=stream)
                        assert not pieces_of_secret(raw), (way, cut, path, stream, raw)
                        assert_official(path, raw)
                        assert (stopped in raw) == (do == "block"), (way, cut, path, stream, raw)


#: Strings of an engine's stream that a screen reads, by where they stand. All others are dropped:
#: what it says of itself, and what is no text of an answer.
SCREENED = {
    "delta.content",
    "delta.refusal",
    "delta.function_call.name",
    "delta.function_call.arguments",
    "delta.tool_calls[0].id",
    "delta.tool_calls[0].function.name",
    "delta.tool_calls[0].function.arguments",
}


@pytest.mark.parametrize("beside", [{}, {"content": " Fine."}, {"refusal": " No."}], ids=repr)
async def test_every_string_that_an_engine_elsewhere_streams_is_screened_or_dropped(
    redis: Redis, tmp_path: Path, beside: dict[str, str]
) -> None:
    screened: set[str] = set()
    async with OpenAIServer(ScriptedRunner.text(" Ok.")).serve() as server:
        runner = OpenAIRunner(server.url, "scripted")
        async with serving(runner, redis, policy=[policy(tmp_path, "block")]) as gateway:
            for place, chunk in fills(ChatCompletionChunk, SECRET):
                for choice in chunk["choices"]:
                    choice["index"] = 0
                    choice["delta"] = beside | choice["delta"]
                server.faults = Faults(insert_at=0, insert=f"data: {json.dumps(chunk)}\n\n")
                for path in (CHAT, RESPONSES, MESSAGES):
                    for stream in (False, True):
                        raw = await sent(gateway, path, stream=stream, failing=True)
                        assert not pieces_of_secret(raw), (place, path, raw)
                        if "content_filter" in raw:
                            screened.add(place.removeprefix(".choices[0]."))
    assert screened == SCREENED


async def sent(gateway: Gateway, path: str, *, stream: bool, failing: bool = False) -> str:
    """The answer as sent, log probabilities asked for. failing: it need not succeed."""
    extra: dict[str, dict[str, Any]] = {
        CHAT: {"logprobs": True, "top_logprobs": 2},
        COMPLETIONS: {"logprobs": 2},
        RESPONSES: {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        MESSAGES: {},
    }
    body = {"model": "scripted", "stream": stream} | LEAST[path] | extra[path]
    status, raw = await gateway.call(path, body)
    assert status == 200 or failing
    return raw


def assert_official(path: str, raw: str) -> None:
    """That the client's own types take the answer, or each frame of it."""
    whole, frame = OFFICIAL[path]
    if not raw.startswith("{"):
        for line in raw.split("\n"):
            if line.startswith("data: {") and line != 'data: {"type":"ping"}':
                if path == COMPLETIONS:  # whose type knows no chunk but the last
                    line = line.replace('"finish_reason":null', '"finish_reason":"stop"')
                frame.validate_json(line.removeprefix("data: "))
        return
    whole.validate_json(raw)


OFFICIAL: dict[str, tuple[TypeAdapter[Any], TypeAdapter[Any]]] = {
    CHAT: (TypeAdapter(ChatCompletion), TypeAdapter(ChatCompletionChunk)),
    COMPLETIONS: (TypeAdapter(Completion), TypeAdapter(Completion)),
    RESPONSES: (TypeAdapter(Response), TypeAdapter(ResponseStreamEvent)),
    MESSAGES: (TypeAdapter(AnthropicMessage), TypeAdapter(RawMessageStreamEvent)),
}


def pieces_of_secret(raw: str) -> set[str]:
    """Three letters of the secret in a row, as text or as numbers of bytes."""
    spelled = raw + "".join(_numbers(raw))
    return {SECRET[i : i + 3] for i in range(len(SECRET) - 2) if SECRET[i : i + 3] in spelled}


def _numbers(raw: str) -> Iterator[str]:
    lines = [x.removeprefix("data: ") for x in raw.split("\n") if x.startswith(("data: {", "{"))]
    for line in lines:
        yield from _bytes(json.loads(line))


def _bytes(value: Any) -> Iterator[str]:
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        yield bytes(v for v in value if 0 <= v < 256).decode(errors="replace")
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _bytes(inner)


# The same text by every way


WORDS = st.sampled_from(
    [
        " jean",
        ".dup",
        "ont@ex",
        "ample.org",
        " a@b.c",
        " the purple",
        " parrot",
        " the purple parrot",
        " kill",
        " a hit",
        " flu",
        "é",
        " a",
        ". ",
    ]
)
TOKENS = st.lists(WORDS, min_size=1, max_size=8)

FILTERS = """\
policy: generated
mode: MODE
hold: {ms: 60000}
filters:
  re:
    regex:
      email: '(?<![\\w.])[\\w.]{1,20}@\\w{1,20}\\.\\w+'
      parrot: {terms: [the purple parrot]}
      a: '\\ba \\w+'
  words: {classifier: words}
  doctor: {critique: {question: "Is it?", every: sentence}}
"""
CONDITIONS = [
    "{re: email}",
    "{re: parrot}",
    "{re: [a, email]}",
    "{words: bad, at: 0.7}",
    "{words: bad, at: 0.5}",
    "{doctor: any, at: 0.5}",
]
ACTIONS = ["flag", "flag, release: signal", "redact", "redact, with: {mask: 2}", "block"]
#: Conditions with what is done about them, of output and of tools.
RULES = st.lists(
    st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(ACTIONS), st.booleans()),
    min_size=2,
    max_size=5,
)
Rules = list[tuple[str, str, bool]]


def generated(mode: str, rules: Rules) -> str:
    lines = [FILTERS.replace("MODE", mode), "output:"]
    stages: tuple[list[str], list[str]] = ([], [])
    for number, (condition, action, of_tools) in enumerate(rules):
        if of_tools:
            action = action.replace(", release: signal", "")
        stages[of_tools].append(f"  - {{id: r{number}, when: {condition}, do: {action}}}")
    output, tools = (rules or ["  []"] for rules in stages)
    return "\n".join([*lines, *output, "tools:", *tools, ""])


def yes_to_flu(text: str, labels: Sequence[str]) -> dict[str, float]:
    """What stands in the question does not count."""
    flu = 0.9 if "flu" in text.partition("\n\n---\n")[0] else 0.1
    return dict(zip(labels, (flu, 1 - flu), strict=True))


class Said:
    """A script that is changed from one example to the next."""

    def __init__(self) -> None:
        self.contents: list[list[str]] = [["x"]]
        self.aside: list[Delta] = []
        self.call: list[Delta] = []

    def __call__(self, request: GenerateRequest) -> list[list[Step]]:
        written = say(*self.contents)(request)
        return [[*self.aside, *steps[:-1], *self.call, steps[-1]] for steps in written]


class Setting(NamedTuple):
    said: Said
    gateway: Gateway
    file: Path
    resources: Resources

    def rule(self, mode: str, rules: Rules) -> None:
        self.file.write_text(generated(mode, rules), encoding="utf-8")
        self.gateway.services.policies.reload(self.resources)


@pytest.fixture
async def scripted(redis: Redis, tmp_path: Path) -> Any:
    said, file = Said(), tmp_path / "generated.yaml"
    file.write_text(generated("enforce", []), encoding="utf-8")
    runner = ScriptedRunner(said, score=yes_to_flu)
    words: dict[str, Scorer] = {"words": WordScorer()}
    async with serving(runner, redis, policy=[str(file)], classifiers=words) as gateway:
        yield Setting(said, gateway, file, Resources(words, judge=True))


@pytest.mark.timeout(seconds(900))
@settings(
    invariant(),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.sampled_from(["enforce", "enforce", "enforce", "monitor"]),
    RULES,
    TOKENS,
    TOKENS,
    st.sampled_from([None, REASONING, REFUSAL]),
    TOKENS,
    st.booleans(),
)
async def test_every_dialect_lets_the_same_text_out(
    scripted: Setting,
    mode: str,
    rules: Rules,
    one: list[str],
    two: list[str],
    aside: Channel | None,
    words: list[str],
    calls: bool,
) -> None:
    said, gateway = scripted.said, scripted.gateway
    scripted.rule(mode, rules)
    said.contents = [one, two]
    said.aside = pieces(words, aside) if aside else []
    said.call = tool_call("go", json.dumps({"to": "".join(words)})) if calls else []
    answers = {
        (path, stream): await read(gateway, path, stream=stream)
        for path in LEAST
        for stream in (False, True)
    }
    first = answers[CHAT, False]
    assert answers[CHAT, True] == first
    if mode == "monitor":
        assert [choice["content"] for choice in first] == ["".join(one), "".join(two)]
        assert all(choice["end"] == "ended" for choice in first)
    plain = [choice | {"refusal": "", "reasoning": "", "calls": []} for choice in first]
    for stream in (False, True):
        assert answers[COMPLETIONS, stream] == plain
        # One choice alone says what it says beside another.
        assert answers[RESPONSES, stream] == first[:1]
        # Here all text is in blocks, refusals too, and reasoning is left out.
        [heard] = answers[MESSAGES, stream]
        assert sorted(heard["blocks"]) == sorted(
            filter(None, (first[0]["content"], first[0]["refusal"]))
        )
        assert (heard["calls"], heard["end"]) == (first[0]["calls"], first[0]["end"])
    said.contents = [["".join(one)], ["".join(two)]]
    uncut = await read(gateway, CHAT, stream=True)
    # Log probabilities are those of other tokens then.
    assert [c | {"tokens": ""} for c in uncut] == [c | {"tokens": ""} for c in first]


Choices = list[dict[str, Any]]


async def read(gateway: Gateway, path: str, *, stream: bool) -> Choices:
    """What each choice said, in words of no dialect."""
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"n": 2, "logprobs": True},
        COMPLETIONS: {"n": 2, "logprobs": 0},
        RESPONSES: {"include": ["message.output_text.logprobs"]},
        MESSAGES: {},
    }
    body = {"model": "scripted", "stream": stream} | LEAST[path] | asked[path]
    status, raw = await gateway.call(path, body)
    assert status == 200, raw
    assert '"error":{' not in raw, raw
    if not stream:
        frames = [json.loads(raw)]
    else:
        lines = [x[6:] for x in raw.split("\n") if x.startswith("data: {")]
        frames = [json.loads(line) for line in lines]
    heard: Choices = [_nothing() for _ in range(asked[path].get("n", 1))]
    if path == MESSAGES:
        heard[0]["blocks"] = []
    for frame in frames:
        READERS[path](heard, frame)
    return heard


def _nothing() -> dict[str, Any]:
    texts = dict.fromkeys(("content", "refusal", "reasoning", "tokens"), "")
    return texts | {"calls": [], "end": None}


def _chat(heard: Choices, frame: Any) -> None:
    for choice in frame["choices"]:
        to = heard[choice["index"]]
        part = choice.get("delta") or choice.get("message") or {}
        to["content"] += part.get("content") or ""
        to["refusal"] += part.get("refusal") or ""
        to["reasoning"] += part.get("reasoning_content") or ""
        for call in part.get("tool_calls", ()):
            to["calls"].append(
                (call["function"]["name"], json.loads(call["function"]["arguments"]))
            )
        for token in (choice["logprobs"] or {}).get("content", ()):
            to["tokens"] += token["token"]
        to["end"] = ENDS.get(choice["finish_reason"], to["end"])


def _completions(heard: Choices, frame: Any) -> None:
    for choice in frame["choices"]:
        to = heard[choice["index"]]
        to["content"] += choice["text"]
        to["tokens"] += "".join((choice["logprobs"] or {}).get("tokens", ()))
        to["end"] = ENDS.get(choice["finish_reason"], to["end"])


def _responses(heard: Choices, frame: Any) -> None:
    to = heard[0]
    kind = frame.get("type", "")
    if frame.get("object") == "response":
        _response(to, frame)
    elif kind in {"response.completed", "response.incomplete"}:
        whole = _nothing()
        _response(whole, frame["response"])
        assert whole == to | {"end": whole["end"]}
        to["end"] = whole["end"]
    elif kind == "response.output_text.delta":
        to["content"] += frame["delta"]
        to["tokens"] += "".join(token["token"] for token in frame["logprobs"])
    elif kind == "response.refusal.delta":
        to["refusal"] += frame["delta"]
    elif kind == "response.reasoning_text.delta":
        to["reasoning"] += frame["delta"]
    elif kind == "response.output_item.done" and frame["item"]["type"] == "function_call":
        to["calls"].append((frame["item"]["name"], json.loads(frame["item"]["arguments"])))


def _response(to: dict[str, Any], response: Any) -> None:
    for item in response["output"]:
        if item["type"] == "function_call":
            to["calls"].append((item["name"], json.loads(item["arguments"])))
        for part in item.get("content", ()):
            name = {"output_text": "content", "reasoning_text": "reasoning"}.get(part["type"])
            to[name or "refusal"] += part.get("text") or part.get("refusal") or ""
            to["tokens"] += "".join(token["token"] for token in part.get("logprobs", ()))
    reason = (response["incomplete_details"] or {}).get("reason")
    to["end"] = ENDS[reason or "stop"]


def _messages(heard: Choices, frame: Any) -> None:
    to = heard[0]
    kind = frame["type"]
    if kind == "message":
        for block in frame["content"]:
            _messages(heard, {"type": "content_block_start", "content_block": block})
            if block["type"] == "tool_use":
                to["calls"].append((block["name"], block["input"]))
        to["end"] = ENDS[frame["stop_reason"]]
    elif kind == "content_block_start" and frame["content_block"]["type"] == "text":
        to["blocks"].append(frame["content_block"]["text"])
    elif kind == "content_block_start":
        to["name"] = frame["content_block"]["name"]
    elif kind == "content_block_delta" and frame["delta"]["type"] == "text_delta":
        to["blocks"][frame["index"]] += frame["delta"]["text"]
    elif kind == "content_block_delta":
        to["calls"].append((to["name"], json.loads(frame["delta"]["partial_json"])))
    elif kind == "message_delta":
        to["end"] = ENDS[frame["delta"]["stop_reason"]]


ENDS: dict[str | None, str] = {
    "stop": "ended",
    "tool_calls": "ended",
    "end_turn": "ended",
    "tool_use": "ended",
    "length": "length",
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "blocked",
    "refusal": "blocked",
}
READERS = {CHAT: _chat, COMPLETIONS: _completions, RESPONSES: _responses, MESSAGES: _messages}
