"""The end of serving, in this process: what is cut, and an engine that is lost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import EngineLost
from model_runner.script import replay
from model_runner.scripted import ScriptedRunner
from model_runner.types import Health
from tests.support.gateway import Gateway, ask, served_again, serving
from tests.support.waiting import until


async def test_a_lost_engine_fails_health_and_ends_the_process(redis: Redis) -> None:
    runner = ScriptedRunner.text("Yes.")
    async with serving(runner, redis) as gateway, served_again(gateway, 60.0) as (url, task):
        for health, status in ((Health(True), 200), (Health(False, "starting"), 200)):
            runner.status = health
            async with gateway.http.get(url + "/healthz") as answer:
                assert answer.status == status
        assert not task.done()
        runner.status = Health(False, "the device failed", fatal=True)
        async with gateway.http.get(url + "/healthz") as answer:
            assert answer.status == 503
        with pytest.raises(EngineLost, match="the device failed"):
            await asyncio.wait_for(task, 30)
        assert await gateway.count("gardefou_draining") == 1


ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": ask("?"),
    "/v1/completions": {"model": "scripted", "prompt": "?"},
    "/v1/responses": {"model": "scripted", "input": "?"},
    "/v1/messages": ask("?", max_tokens=512),
}


@asynccontextmanager
async def cut(
    runner: ScriptedRunner, redis: Redis, caplog: pytest.LogCaptureFixture, **options: Any
) -> AsyncIterator[tuple[Gateway, str, Callable[[], Awaitable[float]]]]:
    """A gateway, its address, and what ends it with no time left; nothing is logged as a fault."""
    async with (
        serving(runner, redis, **options) as gateway,
        served_again(gateway, 0.1) as (url, task),
    ):

        async def end() -> float:
            runner.status = Health(False, "the device failed", fatal=True)
            began = asyncio.get_running_loop().time()
            with pytest.raises(EngineLost):
                await asyncio.wait_for(task, 30)
            return asyncio.get_running_loop().time() - began

        yield gateway, url, end
        assert gateway.drain.running == 0
    wrong = [r for r in caplog.records if r.exc_info or r.name == "uvicorn.error"]
    assert [r.getMessage() for r in wrong if r.levelno >= logging.WARNING] == []


async def test_what_outlasts_the_drain_ends_in_order_in_every_dialect(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runner = ScriptedRunner(replay(["word "] * 10_000))
    async with cut(runner, redis, caplog) as (gateway, url, end):
        runner.delay = 0.01

        async def read(path: str, *, stream: bool) -> tuple[int, str]:
            body = ASKED[path] | {"stream": stream}
            async with gateway.http.post(url + path, json=body) as answer:
                return answer.status, (await answer.read()).decode()  # raises if it is truncated

        reading = {
            (path, stream): asyncio.create_task(read(path, stream=stream))
            for path in ASKED
            for stream in (True, False)
        }
        await until(lambda: [g.sent >= 2 for g in runner.generations] == [True] * len(reading))
        assert await end() < 3
        assert len(runner.cancelled) == len(reading)
        for (path, stream), task in reading.items():
            status, raw = await task
            assert status == (200 if stream else 503), path
            assert "word " in raw or not stream, path
            last = raw.rstrip().splitlines()[-1].removeprefix("data: ")
            assert "The gateway is going down" in json.dumps(json.loads(last)), path
            assert "[DONE]" not in raw


async def test_what_has_not_begun_is_ended_too(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runner = ScriptedRunner.text("Yes.")
    async with cut(runner, redis, caplog) as (gateway, url, end):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        await until(lambda: gateway.drain.running == 1)
        assert await end() < 3
        raw = await reader.read()
        assert raw.startswith(b"HTTP/1.1 503 ")
        assert json.loads(raw.partition(b"\r\n\r\n")[2])["type"] == "error"
        writer.close()


SLOW = """
policy: slow
hold: {ms: 60000}
filters: {tone: {classifier: slow}}
input: [{id: bad, when: {tone: toxicity, at: 0.5}, do: block}]
"""


class SlowScorer:
    """A classifier that is not done in time."""

    categories: Sequence[str] = ("toxicity",)

    def __init__(self) -> None:
        self.asked = 0

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        self.asked += 1
        await asyncio.sleep(60)
        return [{"toxicity": 0.0} for _ in texts]


async def test_what_is_being_screened_is_ended_whoever_waits_for_it(
    redis: Redis, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "slow.yaml").write_text(SLOW)
    options = {"policy": [str(tmp_path / "slow.yaml")], "classifiers": {"slow": SlowScorer()}}
    runner = ScriptedRunner.text("Yes.")
    async with cut(runner, redis, caplog, **options) as (gateway, url, end):

        async def read(path: str, body: Any) -> tuple[int, Any]:
            async with gateway.http.post(url + path, json=body) as answer:
                return answer.status, await answer.json()

        asked = {
            "/v1/moderations": {"input": "a text"},  # listens to nobody
            "/v1/chat/completions": ask("another text"),
            "/v1/messages": ask("a third", max_tokens=5, stream=True),
        }
        reading = [asyncio.create_task(read(*one)) for one in asked.items()]
        await until(lambda: options["classifiers"]["slow"].asked == len(asked))  # type: ignore[index]
        assert await end() < 6
        for status, body in await asyncio.gather(*reading):
            assert status == 503
            assert body["error"]["message"].startswith("The gateway is going down")
    assert runner.requests == []


async def test_who_does_not_read_keeps_nothing_open(
    redis: Redis, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    # Nothing is screened, so that what lies between the two ends is soon full.
    (tmp_path / "none.yaml").write_text("policy: none\n")
    runner = ScriptedRunner(replay(["word " * 20_000] * 1000))
    options = {"policy": [str(tmp_path / "none.yaml")]}
    async with cut(runner, redis, caplog, **options) as (_, url, end):
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        body = json.dumps(ask("?", stream=True)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        sent = -1

        async def stuck() -> bool:
            nonlocal sent
            before, sent = sent, sum(g.sent for g in runner.generations)
            await asyncio.sleep(0.5)
            return 0 < before == sent

        await until(stuck)
        assert await end() < 6
        assert len(runner.cancelled) == 1
        writer.close()


async def test_new_requests_are_refused_in_every_dialect(redis: Redis) -> None:
    runner = ScriptedRunner.text("Yes.")
    async with serving(runner, redis) as gateway:
        gateway.drain.begin()
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/v1/moderations",
        ):
            status, body, headers = await gateway.post(ask("?"), path)
            assert (status, headers["retry-after"]) == (503, "1"), path
            assert body["error"]["message"].startswith("The gateway is going down"), path
        async with gateway.http.get(gateway.url + "/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["checks"]["gateway"] == "going down"
    assert runner.requests == []
