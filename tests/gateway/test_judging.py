"""The model as judge of what it is asked, of its tool calls and of its reasoning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from filters.types import Stage
from gateway.conversation import parts
from gateway.judging import AnswerJudges, judge_part, judge_text
from model_runner.script import Step, pieces, tool_call
from model_runner.scripted import ScriptedRunner
from model_runner.types import (
    REASONING,
    GenerateRequest,
    Message,
    Sampling,
    Tool,
    ToolCall,
)
from tests.support.gateway import Gateway, ask, serving

POLICY = """\
policy: judged
hold: {ms: 60000}
filters:
  doctor: {critique: {question: "Is it flu?", every: EVERY}}
PART:
  - {id: flu, when: {doctor: any, at: 0.8}, do: block}
"""


def score(text: str, labels: Sequence[str]) -> dict[str, float]:
    """Yes, if the judged text has the word; what stands in the question does not count."""
    flu = 0.9 if "flu" in text.partition("\n\n---\n")[0] else 0.1
    return dict(zip(labels, (flu, 1 - flu), strict=True))


def policy(folder: Path, part: str, every: str = "sentence") -> str:
    file = folder / f"{part}.yaml"
    file.write_text(POLICY.replace("PART", part).replace("EVERY", every))
    return str(file)


def judged(runner: ScriptedRunner) -> list[str]:
    return [text.partition("\n\n---\n")[0] for _, text in runner.judged]


async def blocked(gateway: Gateway, body: Any) -> bool:
    """Whether the prompt is blocked."""
    status, answer, _ = await gateway.post(body)
    assert status in {200, 400}, answer
    return status == 400 and answer["error"]["code"] == "content_filter"


@pytest.mark.parametrize("every", ["sentence", "end", "16"])
async def test_a_prompt_is_judged_before_the_model_answers(
    redis: Redis, tmp_path: Path, every: str
) -> None:
    runner = ScriptedRunner.text("Rest.", score=score)
    async with serving(runner, redis, policy=[policy(tmp_path, "input", every)]) as gateway:
        assert await blocked(gateway, ask("I cough. Is it flu? Tell me."))
        assert runner.requests == []
        assert not await blocked(gateway, ask("I cough. What is it? Tell me."))
        assert len(runner.requests) == 1
        status, body, _ = await gateway.post({"input": "It is flu."}, "/v1/moderations")
        assert (status, body["results"][0]["flagged"]) == (200, True)


async def test_a_prompt_is_read_where_it_stands(redis: Redis, tmp_path: Path) -> None:
    runner = ScriptedRunner.text("Rest.", score=score)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello. You."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "I cough."},
    ]
    async with serving(runner, redis, policy=[policy(tmp_path, "input")]) as gateway:
        assert not await blocked(gateway, ask("") | {"messages": turns})
        read = [[m.content for m in r.messages or ()] for r, _ in runner.judged]
        assert sorted(read) == [
            ["Be kind."],  # what no chat format takes alone stands alone
            ["Be kind.", "Hello."],
            ["Be kind.", "Hello. You."],
            ["Be kind.", "Hello. You.", "Yes?"],
            ["Be kind.", "Hello. You.", "Yes?", "I cough."],
        ]
        runner.judged.clear()
        turns += [{"role": "assistant", "content": "Rest."}, {"role": "user", "content": "Thanks."}]
        assert not await blocked(gateway, ask("") | {"messages": turns})
        assert sorted(judged(runner)) == ["Rest.", "Thanks."]  # the history was paid for


async def test_a_text_is_judged_anew_where_the_judge_would_read_other_things_beside_it(
    redis: Redis, tmp_path: Path
) -> None:
    runner = ScriptedRunner.text("Rest.", score=score)
    tool = {"type": "function", "function": {"name": "look_up", "description": "Finds."}}
    other = {"type": "function", "function": {"name": "look_up", "description": "Deletes."}}
    message = {"role": "user", "content": "I cough."}
    asked: list[dict[str, Any]] = [
        {"messages": [message]},
        {"messages": [message], "tools": [tool]},
        {"messages": [message], "tools": [other]},
        {"messages": [message], "tools": [tool], "tool_choice": "required"},
        {"messages": [message | {"name": "doctor"}], "tools": [tool]},
    ]
    async with serving(runner, redis, policy=[policy(tmp_path, "input")]) as gateway:
        for body in asked * 2:
            assert not await blocked(gateway, ask("") | body)
            await gateway.count("gardefou_running_requests")  # the verdicts are in by then
        assert judged(runner).count("I cough.") == len(asked)


async def test_a_completions_prompt_is_judged_as_it_is(redis: Redis, tmp_path: Path) -> None:
    runner = ScriptedRunner.text("Rest.", score=score)
    async with serving(runner, redis, policy=[policy(tmp_path, "input")]) as gateway:
        body = {"model": "scripted", "prompt": "It is flu"}
        status, _, _ = await gateway.post(body, "/v1/completions")
        assert status == 400
        assert [r.prompt for r, _ in runner.judged] == ["It is flu"]


@pytest.mark.parametrize("part", ["output", "tools"])
@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ('{"q": "cough"}', True),
        ('{"q": "flu"}', False),
        ('{"q": "\\u0066lu"}', False),
        ('{"q": "flu', False),
    ],
)
async def test_tool_arguments_are_judged_whole(
    redis: Redis, tmp_path: Path, part: str, arguments: str, *, passes: bool
) -> None:
    steps: list[Step] = [*tool_call("search", arguments)]
    runner = ScriptedRunner(lambda _request: [steps], score=score)
    async with serving(runner, redis, policy=[policy(tmp_path, part)]) as gateway:
        tools = [{"type": "function", "function": {"name": "search"}}]
        _, body, _ = await gateway.post(ask("?") | {"tools": tools})
        [choice] = body["choices"]
        assert (choice["finish_reason"] == "tool_calls") == passes
        assert bool(choice["message"].get("tool_calls")) == passes
        # One question for the call, not one for each string in it; the function is named.
        calls = [text for text in judged(runner) if text.startswith("search {")]
        assert len(calls) == 1
        assert "\\u" not in calls[0]


async def test_reasoning_is_judged_as_it_is_written(redis: Redis, tmp_path: Path) -> None:
    steps: list[Step] = [*pieces("Let me see. It is flu. Hm.", REASONING), "Rest."]
    runner = ScriptedRunner(lambda _request: [steps], score=score)
    async with serving(runner, redis, policy=[policy(tmp_path, "output")]) as gateway:
        _, body, _ = await gateway.post(ask("?"))
        [choice] = body["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert not choice["message"]["content"]
        assert choice["message"]["reasoning_content"] == "Let me see."
        assert [m.role for m in runner.judged[0][0].messages or ()] == ["user", "assistant"]


async def test_where_the_engine_cannot_judge_nothing_passes(redis: Redis, tmp_path: Path) -> None:
    def fails(_text: str, _labels: Sequence[str]) -> dict[str, float]:
        return {}

    runner = ScriptedRunner.text("Rest.", score=fails)
    async with serving(runner, redis, policy=[policy(tmp_path, "input")]) as gateway:
        status, answer, _ = await gateway.post(ask("Hello."))
        assert (status, answer["error"]["code"]) == (503, "screening_failed")
    assert runner.requests == []


REQUEST = GenerateRequest(
    messages=(
        Message("system", "S"),
        Message("user", "U"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "f", '{"a": 1}'),)),
        Message("tool", "R", tool_call_id="c1"),
        Message("assistant", "A"),
    ),
    tools=(Tool("f", "D"),),
    sampling=Sampling(n=2, stop=("E",), max_tokens=3),
    tenant="t",
)


async def test_every_part_of_a_request_can_be_judged() -> None:
    runner = ScriptedRunner.text("x", score=score)
    for part in parts(REQUEST):
        judge = judge_part(runner, REQUEST, part)
        assert judge is not None
        runner.judged.clear()
        await judge.score("?", (" yes", " no"), at=len(part.text))
        [(read, text)] = runner.judged
        assert text == part.text + "?"
        assert (read.tenant, read.sampling) == ("t", Sampling())
        if part.path == ("messages", 3, "content"):
            assert read.messages == (REQUEST.messages or ())[:4]
            assert read.tools == REQUEST.tools
    assert judge_part(ScriptedRunner.text("x"), REQUEST, part) is None


@pytest.mark.parametrize("stage", ["input", "output", "tool_arguments", "tool_result"])
async def test_a_text_alone_can_be_judged(stage: Stage) -> None:
    runner = ScriptedRunner.text("x", score=score)
    await judge_text(runner, stage, "abc").score("?", (" yes", " no"), at=2)
    [(read, text)] = runner.judged
    assert text == "ab?"
    assert read.messages
    answered = stage in {"output", "tool_arguments"}
    assert read.messages[-1].role == ("assistant" if answered else "user")


async def test_what_an_answer_goes_on_from_is_read_with_it() -> None:
    runner = ScriptedRunner.text("x", score=score)
    for request, expected in [
        (REQUEST, "AB"),
        (replace(REQUEST, messages=(Message("user", "U"),)), "B"),
        (GenerateRequest(prompt="P"), "PB"),
    ]:
        runner.judged.clear()
        judge = AnswerJudges(runner, request).of("output", lambda: "BC")
        await judge.score("?", (" yes", " no"), at=1)
        assert runner.judged[0][1] == expected + "?"


async def test_no_judges_answer_crosses_streams(redis: Redis, tmp_path: Path) -> None:
    """200 at once: each answer is judged by its own text; some clients leave; none stays open."""

    def said(request: GenerateRequest) -> list[list[Step]]:
        number = int((request.messages or ())[-1].content)
        ill = "It is flu" if number % 3 == 0 else "It is cold"
        return [[f"Number {number}", ". ", ill, f" {number}. ", "Bye."]]

    runner = ScriptedRunner(said, score=score)
    async with serving(runner, redis, policy=[policy(tmp_path, "output")]) as gateway:
        asked = {
            number: asyncio.create_task(gateway.call("/v1/chat/completions", ask(str(number))))
            for number in range(200)
        }
        leaving = [asyncio.create_task(gateway.post(ask(str(number)))) for number in range(30)]
        await asyncio.wait([asked[0]])
        for gone in leaving:
            gone.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for number, task in asked.items():
            status, raw = await task
            [choice] = json.loads(raw)["choices"]
            ill = number % 3 == 0
            assert (status, choice["finish_reason"]) == (200, "content_filter" if ill else "stop")
            whole = f"Number {number}. It is cold {number}. Bye."
            assert choice["message"]["content"] == (f"Number {number}." if ill else whole)
        assert await gateway.count("gardefou_running_requests") == 0
        assert all(g.closed or g.finished for g in runner.generations)
