"""Escapes in JSON hide nothing: in calls on their way out, and in those of a history."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.json_texts import canonical, screened_json
from model_runner.script import replay, tool_call
from model_runner.scripted import ScriptedRunner
from tests.support.gateway import ask, serving

EMAIL = "jean.dupont@example.org"
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in EMAIL)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


async def cut(text: str) -> str:
    return text.replace(EMAIL, "[EMAIL]")


@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"to": "{EMAIL}"}}',
        f'{{"to": "{ESCAPED}"}}',
        f'{{"{ESCAPED}": 1}}',
        f'{{"to": ["jean.dup", "ont@example.org"], "n": 1}}',  # noqa: F541
        f'{{"to": "{ESCAPED}", "to": "nobody"}}',
        f'{{"a": [{{"b": "x {ESCAPED} y"}}]}}',
        f'{{"to": "{ESCAPED}',
        f"{{'to': '{ESCAPED}'}}",
        f'{{"to": "{ESCAPED}"}} and {{"more": 1}}',
        json.dumps({"inner": f'{{"to": "{ESCAPED}"}}'}),
        json.dumps({"inner": json.dumps([f'["{ESCAPED}"]'])}),
    ],
)
async def test_a_secret_leaves_in_no_dress(arguments: str) -> None:
    made = await screened_json(arguments, await cut(arguments), cut)
    for _ in range(4):  # as a reader undoes escapes, and escapes of escapes
        assert EMAIL not in made
        made = made.replace("\\\\", "\\").encode().decode("unicode_escape", errors="replace")
    assert EMAIL not in made
    assert "ont@example" not in made


@given(JSON)
async def test_what_holds_nothing_stays_as_it_was(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert await screened_json(text, text, cut) == text


@given(JSON)
def test_canonical_text_says_the_same(value: Any) -> None:
    assert json.loads(canonical(json.dumps(value))) == value
    assert canonical('{"a": "x", "a": "y"}') == '{"a": "y"}'
    assert canonical("no {json") == "no {json"


async def test_an_escaped_secret_in_a_call_does_not_leave(redis: Redis) -> None:
    call = tool_call("mail", f'{{"to": "{ESCAPED}"}}')
    async with serving(ScriptedRunner(replay(call)), redis) as gateway:
        tools = [{"type": "function", "function": {"name": "mail", "parameters": {}}}]
        _, raw = await gateway.stream(ask("?", tools=tools))
        assert "u006a" not in raw
        assert "[EMAIL]" in raw


async def test_an_escaped_secret_in_a_history_does_not_reach_the_model(redis: Redis) -> None:
    runner = ScriptedRunner.text("ok")
    async with serving(runner, redis, policy=["strict"]) as gateway:
        function = {"name": "mail", "arguments": f'{{"to": "{ESCAPED}"}}'}
        messages = [
            {"role": "user", "content": "?"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sent"},
        ]
        status, _, _ = await gateway.post({"model": "scripted", "messages": messages})
        assert status == 200
        seen = str(runner.requests[-1].messages)
        assert "[EMAIL]" in seen
        assert "u006a" not in seen
