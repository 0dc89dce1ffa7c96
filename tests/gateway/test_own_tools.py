"""Tools of a model in this process, through the gateway, with the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError
from redis.asyncio import Redis

from model_runner.transformers.runner import TransformersRunner
from tests.support import tiny
from tests.support.gateway import Gateway, serving

CALLS = 5  # [TOOL_CALLS] of tokenizer v3
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
]
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "How warm is it?"}],
    "tools": TOOLS,
    "temperature": 0,
}
POLICY = """
policy: careful
filters: {words: {regex: {seven: '\\b7\\b'}}}
output: []
tools:
  - id: seven
    when: {words: seven}
    do: block
    examples: {hit: ['{"city": 7}'], pass: ['{"city": 8}']}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    call = '[{"name":"weather","arguments":{ "city" : 7}}]'
    return tiny.spelling(tmp_path_factory.mktemp("model"), ["Let me see.", CALLS, call])


@pytest.fixture
async def gateway(model: Path, redis: Redis) -> AsyncIterator[Gateway]:
    runner = TransformersRunner(str(model), device="cpu", name="caller")
    async with serving(runner, redis) as gateway:
        yield gateway


async def test_a_call_and_its_result(gateway: Gateway) -> None:
    create = gateway.client.chat.completions.create
    answer = await create(model="caller", **ASKED)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls = choice.message.tool_calls or []
    assert len(calls) == 1
    call = calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": 7})

    result = {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"}
    said = [*ASKED["messages"], choice.message.model_dump(exclude_none=True), result]
    answer = await create(model="caller", **ASKED | {"messages": said, "tool_choice": "none"})
    assert (answer.choices[0].message.content or "").startswith("Let me see.")


async def test_streamed_it_leaves_whole(gateway: Gateway) -> None:
    chunks = [
        chunk.choices[0]
        async for chunk in await gateway.client.chat.completions.create(
            model="caller", stream=True, **ASKED
        )
    ]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Let me see."
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    said = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(said) == {"city": 7}
    assert chunks[-1].finish_reason == "tool_calls"


async def test_arguments_are_screened(model: Path, redis: Redis, tmp_path: Path) -> None:
    (policy := tmp_path / "careful.yaml").write_text(POLICY, encoding="utf-8")
    runner = TransformersRunner(str(model), device="cpu", name="caller")
    async with serving(runner, redis, policy=(str(policy),)) as gateway:
        answer = await gateway.client.chat.completions.create(model="caller", **ASKED)
        (choice,) = answer.choices
        assert choice.finish_reason == "content_filter"
        assert not choice.message.tool_calls
        assert choice.message.content == "Let me see."


async def test_what_cannot_be_is_told(gateway: Gateway) -> None:
    called = {
        "role": "assistant",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ],
    }
    with pytest.raises(BadRequestError, match="no `tool` message answers"):
        await gateway.client.chat.completions.create(
            model="caller", **ASKED | {"messages": [*ASKED["messages"], called]}
        )
    with pytest.raises(BadRequestError, match="a function that `tools` does not have"):
        await gateway.client.chat.completions.create(
            model="caller",
            **ASKED | {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
        )
