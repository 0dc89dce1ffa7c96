"""Requests that begin and do not end: refused in time, while slow ones pass."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.drain import Drain
from gateway.errors import EngineLost
from model_runner.scripted import ScriptedRunner
from model_runner.types import Health
from tests.support.gateway import ask, served_again, serving

SECONDS = 0.6
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"


@dataclass
class Door:
    """Where to knock with bytes that no client would send."""

    port: int
    drain: Drain

    @asynccontextmanager
    async def open(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def sent(self, *pieces: bytes, every: float = 0.0) -> tuple[bytes, float]:
        """All that comes back until the connection is closed, and after how many seconds it was."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(20), self.open() as (reader, writer):
            reading = asyncio.create_task(reader.read())
            for piece in pieces:
                if reading.done():
                    break
                writer.write(piece)
                await asyncio.sleep(every)
            return await reading, asyncio.get_running_loop().time() - began


@pytest.fixture
async def door(redis: Redis) -> AsyncIterator[Door]:
    runner = ScriptedRunner.text("Yes.")
    async with (
        serving(runner, redis) as gateway,
        served_again(gateway, receive=SECONDS) as (url, task),
    ):
        yield Door(int(url.rpartition(":")[2]), gateway.drain)
        runner.status = Health(False, "the test is over", fatal=True)
        with pytest.raises(EngineLost):
            await task


def refused(raw: bytes) -> dict[str, Any]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head
    error: dict[str, Any] = json.loads(body)["error"]
    return error


async def test_a_body_that_does_not_come_is_refused(door: Door) -> None:
    raw, seconds = await door.sent(HEAD + b"content-length: 5000\r\n\r\n{")
    assert refused(raw)["code"] == "request_timeout"
    assert SECONDS <= seconds < SECONDS + 2
    raw, _ = await door.sent(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    assert refused(raw)["message"] == "The request did not arrive in time."
    assert door.drain.running == 0
    raw, _ = await door.sent(
        HEAD.replace(b"chat/completions", b"messages") + b"content-length: 9\r\n\r\n{"
    )
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["type"] == "error"  # in the dialect's form


async def test_a_body_that_trickles_has_an_end_too(door: Door) -> None:
    pieces = [HEAD + b"content-length: 5000\r\n\r\n", *[b" "] * 100]
    raw, seconds = await door.sent(*pieces, every=SECONDS / 4)
    assert refused(raw)["code"] == "request_timeout"
    assert 10 * SECONDS <= seconds < 10 * SECONDS + 3


async def test_a_slow_and_steady_upload_passes(door: Door) -> None:
    body = json.dumps(ask("?")).encode() + b" " * 2_000_000
    pieces = [body[i : i + len(body) // 12 + 1] for i in range(0, len(body), len(body) // 12 + 1)]
    head = HEAD + f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    raw, seconds = await door.sent(head, *pieces, every=SECONDS / 4)
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert seconds > 2 * SECONDS


@pytest.mark.parametrize("head", [HEAD, b"G"])
async def test_a_head_that_does_not_end_is_refused(door: Door, head: bytes) -> None:
    raw, seconds = await door.sent(head)
    assert refused(raw)["code"] == "request_timeout"
    assert SECONDS <= seconds < SECONDS + 2
    # Line by line is no better: a head is small.
    raw, seconds = await door.sent(HEAD, *[b"x: y\r\n"] * 100, every=SECONDS / 4)
    assert refused(raw)["code"] == "request_timeout"
    assert seconds < SECONDS + 2


async def test_who_says_nothing_is_told_nothing(door: Door) -> None:
    raw, seconds = await door.sent()
    assert raw == b""
    assert SECONDS <= seconds < SECONDS + 2


async def test_a_head_after_an_answer_has_as_long(door: Door) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with asyncio.timeout(20), door.open() as (reader, writer):
        writer.write(whole)
        assert b'"ok"' in await reader.readuntil(b"}")
        # Between requests, a connection may be idle for longer than a request may take to arrive.
        await asyncio.sleep(3 * SECONDS)
        writer.write(whole[:9])
        await asyncio.sleep(SECONDS / 2)
        writer.write(whole[9:])
        assert b'"ok"' in await reader.readuntil(b"}")
        writer.write(whole[:9])
        assert refused(await reader.read())["code"] == "request_timeout"


async def test_the_rest_of_what_was_answered_is_not_waited_for(door: Door) -> None:
    head = b"POST /v1/nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n"
    raw, seconds = await door.sent(head, b"{", every=0.2)
    assert raw.startswith(b"HTTP/1.1 404 ")
    assert seconds < SECONDS + 3


async def test_an_upgrade_is_not_taken_up_and_nothing_is_advised(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn")
    raw, _ = await door.sent(
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\n"
        b"upgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert "websocket" not in caplog.text.lower()
    assert "upgrade" not in caplog.text.lower()
