"""The end of serving, in this process: what is cut, and an engine that is lost."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.errors import EngineLost
from model_runner.script import replay
from model_runner.scripted import ScriptedRunner
from model_runner.types import Health
from tests.support.gateway import ask, served_again, serving
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


async def test_what_outlasts_the_drain_is_cut_and_gives_back_what_it_holds(redis: Redis) -> None:
    runner = ScriptedRunner(replay(["word "] * 10_000))
    async with serving(runner, redis) as gateway, served_again(gateway, 0.1) as (url, task):
        runner.delay = 0.01

        async def read() -> bytes:
            path = url + "/v1/chat/completions"
            async with gateway.http.post(path, json=ask("?", stream=True)) as answer:
                return await answer.read()

        reading = asyncio.create_task(read())
        await until(lambda: any(g.sent >= 2 for g in runner.generations))
        runner.status = Health(False, "the device failed", fatal=True)
        with pytest.raises(EngineLost):
            await asyncio.wait_for(task, 30)
        assert len(runner.cancelled) == 1
        assert gateway.drain.running == 0
        ended = (await asyncio.gather(reading, return_exceptions=True))[0]
        assert not (isinstance(ended, bytes) and b"[DONE]" in ended)


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
