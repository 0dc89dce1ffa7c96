"""An upstream that misbehaves, through the whole gateway: a clear error, and nothing unscreened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.limits.types import Limits
from model_runner.openai import OpenAIRunner
from model_runner.script import pieces, replay
from model_runner.scripted import ScriptedRunner
from tests.support.gateway import Gateway, ask, serving
from tests.support.openai_server import Faults, OpenAIServer, Refusal

SECRET = "xyzzy-4711-secret"
KEY = "sk-plugh-4712"
TEXT = "Où l'été finit 🙂, écrivez à ursule.example@example.org."
SEEN = "Où l'été finit 🙂, écrivez à [EMAIL]."
PIECES = -(-len(TEXT) // 4)  # so many events hold text
#: One answer takes more than half of the tokens, and all of the requests at once.
LIMITS = Limits(concurrent_streams=1, tokens_per_minute=1000)
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": ask("?", model="small"),
    "/v1/responses": {"model": "small", "input": "?"},
    "/v1/messages": {
        "model": "small",
        "max_tokens": 512,
        "messages": [{"role": "user", "content": "?"}],
    },
}
#: Ends that an answer has when all is well, in all dialects.
ENDS = ("[DONE]", 'finish_reason": "stop', "response.completed", "message_stop", "end_turn")


POLICY = r"""
policy: small
filters: {pii: {regex: {email: '\b[\w.]{1,64}@[\w.]{1,64}\w'}}}
output: [{id: email, when: {pii: email}, do: redact}]
"""


@asynccontextmanager
async def in_front_of(redis: Redis, **faults: Any) -> AsyncIterator[tuple[OpenAIServer, Gateway]]:
    """A gateway in front of an upstream that writes TEXT, four characters at a time."""
    engine = ScriptedRunner(replay(pieces(TEXT, cut=4)))
    with NamedTemporaryFile("w", suffix=".yaml") as policy:
        policy.write(POLICY)
        policy.flush()
        async with OpenAIServer(engine).serve() as server:
            runner = OpenAIRunner(server.url, "small", KEY, idle_timeout=0.3)
            async with serving(runner, redis, policy=[policy.name], limits=LIMITS) as gateway:
                server.faults = Faults(**faults)
                yield server, gateway


async def sent(gateway: Gateway, path: str, *, stream: bool) -> tuple[int, str]:
    """Status and all that the client receives; it may not take longer than the time-outs."""
    async with asyncio.timeout(20):
        async with gateway.http.post(
            gateway.url + path, json=ASKED[path] | {"stream": stream}
        ) as answer:
            return answer.status, (await answer.read()).decode()


def content(raw: str) -> str:
    """The text of a streamed chat completion."""
    frames = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    told = [choice["delta"].get("content") for f in frames for choice in f.get("choices", ())]
    return "".join(text for text in told if text)


def chunk(*choices: dict[str, Any]) -> str:
    """One frame of an upstream."""
    return f"data: {json.dumps({'choices': [{'index': 0} | c for c in choices]})}\n\n"


BROKEN: dict[str, dict[str, Any]] = {
    "hangs up within the address": {"hang_up_at": 10},
    "ends within the address": {"end_at": 10},
    "stalls within the address": {"stall_at": 10},
    "ends without a finish": {"finish": False},
    "writes no JSON": {"insert_at": 10, "insert": f"data: {{{SECRET}\n\n"},
    "writes no object": {"insert_at": 10, "insert": "data: 4\n\n"},
    "writes text that is a number": {"insert_at": 10, "insert": chunk({"delta": {"content": 4}})},
    "writes of a choice nobody asked for": {
        "insert_at": 10,
        "insert": chunk({"index": 9, "delta": {"content": SECRET}}),
    },
    "says what went wrong": {
        "insert_at": 10,
        "insert": f'data: {{"error": {{"message": "{SECRET}"}}}}\n\n',
    },
    "writes an endless line": {"insert_at": 10, "insert": "data: " + "a" * 5_000_000},
    "gives the choice up": {"insert_at": 10, "insert": chunk({"finish_reason": "abort"})},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_says_so_and_holds_what_was_not_screened(
    redis: Redis, name: str
) -> None:
    async with in_front_of(redis, **BROKEN[name]) as (server, gateway):
        for path in PATHS:
            status, raw = await sent(gateway, path, stream=True)
            assert status == 200
            assert "ursul" not in raw
            assert SECRET not in raw
            assert not any(end in raw for end in ENDS)
            last = json.loads(raw.rstrip().splitlines()[-1].removeprefix("data: "))
            assert "The engine failed" in json.dumps(last)
            if path == "/v1/chat/completions":
                assert last["error"]["code"] == "engine_failed"
                assert (content(raw) + "[EMAIL].").startswith(
                    "Où l'été finit 🙂, écrivez à [EMAIL]."
                )
        status, raw = await sent(gateway, PATHS[0], stream=False)
        assert (status, json.loads(raw)["error"]["code"]) == (500, "engine_failed")
        assert "été" not in raw
        assert SECRET not in raw
        # What the failed answers had reserved is given back: else there were no room for this one.
        server.faults = Faults()
        status, raw = await sent(gateway, PATHS[0], stream=True)
        assert (status, content(raw)) == (200, SEEN)
        assert await gateway.count("gardefou_running_requests") == 0


WELL: dict[str, tuple[dict[str, Any], str]] = {
    "as it should": ({}, SEEN),
    "a byte at a time": ({"write_bytes": 1}, SEEN),
    "all in one write": ({"frames_per_write": 99}, SEEN),
    "without [DONE]": ({"done": False}, SEEN),
    "without usage": ({"usage": False}, SEEN),
    "without the last blank line": ({"done": False, "last_blank_line": False}, SEEN),
    "with comments and CRLF": ({"comments": True, "newline": "\r\n"}, SEEN),
    "several deltas in one frame": (
        {
            "insert_at": PIECES,
            "insert": chunk(
                {"delta": {"content": " Ou bob"}}, {"delta": {"content": "@example.net!"}}
            ),
        },
        SEEN + " Ou [EMAIL]!",
    ),
    "the finish reason with text": (
        {
            "finish": False,
            "insert_at": PIECES,
            "insert": chunk({"delta": {"content": " Ou bob@example.net"}, "finish_reason": "stop"}),
        },
        SEEN + " Ou [EMAIL]",
    ),
    "bytes that are no UTF-8": (
        {
            "insert_at": PIECES,
            "insert": 'data: {"choices": [{"index": 0, "delta": {"content": " \udcc3!"}}]}\n\n',
        },
        SEEN + " \ufffd!",
    ),
}


@pytest.mark.parametrize("name", WELL)
async def test_however_an_answer_is_written_it_is_screened(redis: Redis, name: str) -> None:
    faults, expected = WELL[name]
    async with in_front_of(redis, **faults) as (_, gateway):
        status, raw = await sent(gateway, PATHS[0], stream=True)
        assert (status, content(raw)) == (200, expected)
        assert raw.endswith("data: [DONE]\n\n")
        assert raw.count('"finish_reason":"stop"') + raw.count('"finish_reason": "stop"') == 1
        status, raw = await sent(gateway, PATHS[0], stream=False)
        assert json.loads(raw)["choices"][0]["message"]["content"] == expected
        for path in PATHS[1:]:
            status, raw = await sent(gateway, path, stream=False)
            assert status == 200
            assert json.dumps(expected)[1:-1] in json.dumps(json.loads(raw))


@pytest.mark.parametrize("path", PATHS)
async def test_an_upstream_that_does_not_begin(redis: Redis, path: str) -> None:
    async with in_front_of(redis) as (server, gateway):
        for stream in (False, True):
            for faults in (
                Faults(delay=5.0),
                Faults(refusals=[Refusal(500, body={"error": {"message": SECRET}})]),
                Faults(refusals=[Refusal(200, hang_up=True)] * 3),
            ):
                server.faults = faults
                status, raw = await sent(gateway, path, stream=stream)
                assert status == 503
                assert "error" in json.loads(raw)
                assert SECRET not in raw
            server.faults = Faults()
            assert (await sent(gateway, path, stream=stream))[0] == 200


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "500": ({"refusals": [Refusal(500, body={"error": {"message": SECRET}})]}, "answered 500"),
    "busy": ({"refusals": [Refusal(429)] * 3}, "busy"),
    "a page": ({"refusals": [Refusal(200, page=f"<p>{SECRET}")]}, "200 with a page"),
    "another path": ({"refusals": [Refusal(404)]}, "answered 404"),
    "hangs up first": ({"refusals": [Refusal(200, hang_up=True)] * 3}, "cannot be reached"),
    "does not begin": ({"delay": 5.0}, "has not begun to answer in time"),
    "hangs up midway": (BROKEN["hangs up within the address"], "broke off its answer"),
    "ends midway": (BROKEN["ends within the address"], "ended without a finish_reason"),
    "stalls midway": (BROKEN["stalls within the address"], "sent nothing for too long"),
    "no JSON": (BROKEN["writes no JSON"], "malformed frame"),
    "its own error": (BROKEN["says what went wrong"], "reported an error"),
    "gives up": (BROKEN["gives the choice up"], "gave up on the answer"),
}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "gardefou.upstream"]


@pytest.mark.parametrize("name", FAULTY)
async def test_a_fault_is_one_line_with_its_host_and_nothing_that_was_said(
    redis: Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    faults, words = deepcopy(FAULTY[name])  # refusals are used up
    async with in_front_of(redis, **faults) as (server, gateway):
        status, _ = await sent(gateway, PATHS[0], stream=False)
        assert status >= 500
        lines = [line for line in told(caplog) if words in line]
        assert len(lines) == len(told(caplog)) == 1
        assert lines[0].startswith(f"127.0.0.1:{server.port}: the upstream ")
        assert not any(said in caplog.text for said in (SECRET, KEY, "Où", "ursul"))


async def test_the_same_fault_is_one_line_a_second(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_front_of(redis, refusals=[Refusal(500)] * 99) as (_, gateway):
        for _ in range(3):
            assert (await sent(gateway, PATHS[0], stream=True))[0] == 503
        assert len(told(caplog)) == 1
        await asyncio.sleep(1.0)
        assert (await sent(gateway, PATHS[0], stream=True))[0] == 503
        assert len(told(caplog)) == 2


async def test_what_clients_do_is_no_fault_of_the_engine(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_front_of(redis, refusals=[Refusal(400)]) as (server, gateway):
        assert (await sent(gateway, PATHS[0], stream=True))[0] == 400
        server.faults = Faults(stall_at=3)
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(0.2),
                gateway.http.post(gateway.url + PATHS[0], json=ASKED[PATHS[0]]) as answer,
            ):
                await answer.read()
        assert await gateway.count("gardefou_running_requests") == 0
        assert told(caplog) == []


@pytest.mark.parametrize("refusal", [401, 403])
async def test_a_key_that_is_refused_is_no_clients_matter(
    redis: Redis, caplog: pytest.LogCaptureFixture, refusal: int
) -> None:
    async with in_front_of(redis) as (server, gateway):
        for path in PATHS:
            server.faults = Faults(refusals=[Refusal(refusal, body={"error": SECRET})])
            status, body, headers = await gateway.post(ASKED[path] | {"stream": True}, path)
            assert status == 502
            assert "The engine refused this gateway's credentials." in json.dumps(body)
            assert "retry-after" not in headers
            assert SECRET not in json.dumps(body)
        [line] = told(caplog)
        assert f"answered {refusal}" in line
        assert "upstream-key" in line
