"""How a real server ends: gently at the first signal, at once at the second."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from model_runner.script import replay
from model_runner.scripted import ScriptedRunner
from tests.support.openai_server import OpenAIServer
from tests.support.process import Server, alive, served
from tests.support.waiting import until

WORDS = ["Bonjour ", "tout ", "le ", "monde. "]


@dataclass
class Running:
    """A server in front of an engine that writes as slowly as `engine.delay` says."""

    server: Server
    engine: ScriptedRunner
    http: aiohttp.ClientSession

    async def ask(self, **more: Any) -> tuple[int, str, dict[str, str]]:
        body = {"model": "small", "messages": [{"role": "user", "content": "?"}]} | more
        url = self.server.url + "/v1/chat/completions"
        async with self.http.post(url, json=body) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, await answer.text(), headers

    async def status(self, path: str) -> int:
        async with self.http.get(self.server.url + path) as answer:
            return answer.status

    async def until_it_drains(self) -> None:
        async def refused() -> bool:
            return await self.status("/readyz") == 503

        await until(refused)


@asynccontextmanager
async def running(folder: Path, *steps: str, drain: float) -> AsyncIterator[Running]:
    engine = ScriptedRunner(replay(list(steps)))
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(OpenAIServer(engine).serve())
        settings = ("--upstream", upstream.url, "--drain-seconds", str(drain))
        # Starting blocks, and the upstream lives on this loop.
        process = served(folder, *settings)
        server = await asyncio.to_thread(process.__enter__)
        stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Running(server, engine, http)


async def test_what_runs_ends_and_nothing_new_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, *WORDS * 3, drain=60) as it:
        it.engine.delay = 0.3
        children = it.server.children()
        asked = asyncio.create_task(it.ask(stream=True))
        await until(lambda: asked.done() or any(g.sent >= 2 for g in it.engine.generations))
        assert not asked.done(), asked.result()
        it.server.process.send_signal(signal.SIGTERM)
        await it.until_it_drains()
        assert not asked.done()
        status, body, headers = await it.ask()
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert headers["retry-after"]
        assert await it.status("/healthz") == 200
        it.engine.delay = 0.0
        status, raw, _ = await asked
        assert status == 200
        assert raw.endswith("data: [DONE]\n\n")
        frames = [json.loads(f[6:]) for f in raw.split("\n\n") if f.startswith("data: {")]
        text = "".join(c["delta"].get("content", "") for f in frames for c in f["choices"])
        assert text == "".join(WORDS * 3)
        assert await asyncio.to_thread(it.server.process.wait, 30) == 0
        assert len(it.engine.requests) == 1
        assert [pid for pid in children if alive(pid)] == []


async def test_what_still_runs_then_is_told_and_the_process_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, *WORDS * 1000, drain=1) as it:
        it.engine.delay = 0.05
        asked = asyncio.create_task(it.ask(stream=True))
        whole = asyncio.create_task(it.ask())
        await until(lambda: [g.sent >= 2 for g in it.engine.generations] == [True, True])
        it.server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status, raw, _ = await asked
        assert (status, time.monotonic() - began < 3) == (200, True)
        assert "shutting_down" in raw.rstrip().splitlines()[-1]
        assert "[DONE]" not in raw
        assert (await whole)[0] == 503
        assert await asyncio.to_thread(it.server.process.wait, 30) == 0
        assert time.monotonic() - began < 4
        log = it.server.log.read_text()
        assert "2 requests are cut" in log
        assert "ERROR" not in log
        assert "Traceback" not in log


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, *WORDS * 1000, drain=600) as it:
        it.engine.delay = 0.05
        asked = asyncio.create_task(it.ask(stream=True))
        await until(lambda: asked.done() or any(g.sent >= 2 for g in it.engine.generations))
        assert not asked.done(), asked.result()
        it.server.process.send_signal(signal.SIGTERM)
        await it.until_it_drains()
        assert not asked.done()
        it.server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(it.server.process.wait, 30) == 0
        await asyncio.gather(asked, return_exceptions=True)
        log = it.server.log.read_text()
        assert "ERROR" not in log, log
        assert "Traceback" not in log, log
        await until(lambda: bool(it.engine.cancelled))
