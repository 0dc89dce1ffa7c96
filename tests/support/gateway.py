"""A gateway on a real port of this machine, over any runner and a real Redis."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
from openai import AsyncOpenAI
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message

from filters.registry import Resources
from filters.types import Scorer
from gateway.app import Doors, create_app
from gateway.audit import AuditLog
from gateway.caller import Gate
from gateway.drain import Drain
from gateway.exchange import Services
from gateway.keys import KeyStore
from gateway.limits.limiter import Limiter
from gateway.limits.types import Limits
from gateway.metrics import Metrics
from gateway.policy_store import PolicyStore
from gateway.server import serve_app
from model_runner.continuing import rewinding
from model_runner.scripted import ScriptedRunner
from model_runner.types import ModelRunner
from policies.screen import Budget
from tests.support.waiting import until


@dataclass
class Gateway:
    """A gateway that serves. `client` is OpenAI's own, `http` for all that it would not send."""

    url: str
    services: Services
    keys: KeyStore
    client: AsyncOpenAI
    http: aiohttp.ClientSession
    app: ASGIApp
    drain: Drain
    runner: ModelRunner  # as it was given

    async def call(self, path: str, body: Any) -> tuple[int, str]:
        """Status and text of the answer, without a socket: for tests that ask often."""
        sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        status, answer = 0, bytearray()

        async def receive() -> Message:
            if sent:
                return sent.pop()
            return await asyncio.Future[Message]()  # the client stays until the end

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self.app(scope, receive, send)
        return status, answer.decode()

    async def post(
        self, body: Any, path: str = "/v1/chat/completions", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON body and headers."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.http.post(self.url + path, json=body, headers=named) as answer:
            return (
                answer.status,
                await answer.json(),
                {k.lower(): v for k, v in answer.headers.items()},
            )

    async def stream(self, body: Any) -> tuple[list[Any], str]:
        """The frames of a streamed answer ([DONE] left out), and the whole of it as sent."""
        async with self.http.post(
            self.url + "/v1/chat/completions", json=body | {"stream": True}
        ) as answer:
            raw = (await answer.read()).decode()
        lines = [line[6:] for line in raw.split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"], raw

    async def count(self, name: str, **labels: str) -> float:
        """A metric's value, once no request runs any more."""
        registry = self.services.metrics.registry
        for _ in range(500):
            if not registry.get_sample_value("gardefou_running_requests"):
                break
            await asyncio.sleep(0.01)
        return registry.get_sample_value(name, labels) or 0.0


def ask(text: str, **more: Any) -> dict[str, Any]:
    """The body of a plain request."""
    return {"model": "scripted", "messages": [{"role": "user", "content": text}]} | more


async def leave_midway(gateway: Gateway, runner: ScriptedRunner, path: str, body: Any) -> None:
    """Ask, and go away once the engine has written two deltas; wait until it has noticed."""

    async def read() -> None:
        async with gateway.http.post(gateway.url + path, json=body) as answer:
            await answer.read()

    async def until(done: Callable[[], bool]) -> None:
        for _ in range(2000):
            if done():
                return
            await asyncio.sleep(0.01)

    reading = asyncio.create_task(read())
    await until(lambda: any(generation.sent >= 2 for generation in runner.generations))
    assert not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: bool(runner.cancelled))


@asynccontextmanager
async def serving(
    runner: ModelRunner,
    redis: Redis,
    *,
    policy: Sequence[str] = ("patterns",),
    limits: Limits | None = None,
    classifiers: dict[str, Scorer] | None = None,
    kinds: dict[str, str] | None = None,
    on_error: str = "refuse",
    keep_alive: float = 10.0,
    max_tokens: int = 512,
    audit: AuditLog | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Gateway]:
    metrics = metrics or Metrics()
    given, runner = runner, rewinding(runner)
    can = runner.capabilities
    resources = Resources(classifiers or {}, judge=can.score, rewind=can.rewind, kinds=kinds or {})
    await runner.start()
    services = Services(
        runner=runner,
        policies=PolicyStore(list(policy), resources, metrics),
        limiter=Limiter(redis),
        metrics=metrics,
        budget=Budget(),
        max_tokens=max_tokens,
        refuse_without_limits=on_error == "refuse",
        audit=audit,
    )
    keys = KeyStore(redis)
    gate = Gate(
        keys, limits or Limits(), keyless=await keys.empty(), trust_memory=on_error == "allow"
    )
    drain = Drain(metrics)
    app = create_app(Doors(services, gate, redis, drain, keep_alive))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    # Client and server share a loop here: one that is late by seconds finds kept connections past
    # their time before it finds what was sent on them.
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    watch = asyncio.create_task(services.policies.watch(0.02))
    try:
        async with (
            AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            yield Gateway(url, services, keys, client, http, app, drain, given)
    finally:
        watch.cancel()
        server.should_exit = True
        await task
        await runner.close()


@asynccontextmanager
async def served_again(
    gateway: Gateway, seconds: float = 60.0, *, receive: float = 30.0
) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """The same application, as the command serves it: its address, and the task that serves."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    runner = gateway.services.runner
    task = asyncio.create_task(
        serve_app(gateway.app, sock, runner, gateway.drain, seconds, receive=receive)
    )
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def answers() -> bool:
        try:
            async with gateway.http.get(url + "/healthz"):
                return True
        except aiohttp.ClientError:
            return False

    await until(answers)
    yield url, task
