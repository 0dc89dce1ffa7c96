"""Puts the parts together, from settings to a server that answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

import model_runner
from gateway.app import Doors, create_app
from gateway.audit import audit_log
from gateway.caller import Gate, is_loopback
from gateway.drain import CLOSING, LOST, Drain, DrainingServer, lost
from gateway.errors import EngineLost, RedisUnavailable, SettingsInvalid
from gateway.exchange import Services
from gateway.extras import local_extra
from gateway.guards import close_resources, start_guards
from gateway.keys import KeyStore
from gateway.limits.limiter import Limiter
from gateway.metrics import Metrics
from gateway.policy_store import PolicyStore
from gateway.receiving import Connection, InTime
from gateway.redis_connection import RedisEndpoint
from gateway.resources import judge_model, make_resources
from gateway.settings.types import Settings
from model_runner.continuing import rewinding
from model_runner.registry import backend
from model_runner.types import ModelRunner
from policies.screen import Budget

log = logging.getLogger("gardefou")

DEMO = Path(model_runner.__file__).parent / "demo"
#: Tokens of a prompt and its answer for which a model here must have memory.
LEAST = 512
Say = Callable[[str], None]


def make_runner(settings: Settings, say: Say) -> ModelRunner:
    """The engine that the settings ask for. Raises SettingsInvalid."""
    if settings.upstream is not None:
        return backend("openai")(
            settings.upstream,
            settings.upstream_model,
            settings.upstream_key,
            dialect=settings.upstream_dialect,
            idle_timeout=settings.upstream_idle_seconds,
            cache_salt=settings.upstream_dialect == "vllm",
            has=settings.upstream_has,
            lacks=settings.upstream_lacks,
        )
    say("importing torch")
    with local_extra("without `--upstream`, running a model here", SettingsInvalid):
        runner = backend("transformers")
    name = settings.name or ("gardefou-demo" if settings.model is None else settings.model)
    return runner(
        settings.model or str(DEMO),
        name=name,
        device=settings.device,
        dtype=settings.dtype,
        queue=settings.queue,
        concurrency=settings.concurrency,
        memory=None if settings.kv_gib is None else int(settings.kv_gib * 2**30),
        read=settings.read_tokens,
        stall=settings.stall,
        compile=settings.compile == "yes",
        reserve=settings.judge_reserve,
        least=LEAST,
        judges=settings.judges,
        probes=settings.probes,
        progress=say,
    )


async def serve(settings: Settings, redis: RedisEndpoint, say: Say, *, check: bool = False) -> None:
    """Serve until a signal comes; with `check`, only make sure that it could.

    Raises SettingsInvalid, PolicyInvalid, FilterConfigError, RunnerError, RedisUnavailable,
    EngineLost.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(redis.client())
        keys = KeyStore(client)
        keyless = await keys.empty()
        if keyless and not is_loopback(settings.host):
            raise SettingsInvalid(
                f"--host {settings.host} is open to other machines, and there are no keys: "
                "make one first, with `gardefou keys add NAME`"
            )
        metrics = Metrics()
        audit = None
        if settings.audit is not None:
            key = (settings.redaction_key or "").encode()
            audit = stack.enter_context(audit_log(settings.audit, key, metrics))
        runner = rewinding(make_runner(settings, say))
        can = runner.capabilities
        resources = make_resources(
            settings, judge=can.score, rewind=can.rewind, metrics=metrics, runner=runner
        )
        stack.push_async_callback(close_resources, resources)
        policies = PolicyStore(settings.policy, resources, metrics)
        for source in settings.policy:
            policy = policies.by_source(source)
            say(f"policy {policy.name}, version {policy.version} ({policy.mode}): {policy.source}")
        sock = None if check else _bind(settings)
        stack.push_async_callback(runner.close)
        await runner.start()
        if (stats := getattr(runner, "stats", None)) is not None:
            metrics.watch(stats)
        await start_guards(resources, say)
        if runner.capabilities.score:  # what was not known of the model before it was loaded
            policies.reload(replace(resources, model=judge_model(runner)))
        if check:
            say("all is well")
            return
        assert sock is not None  # noqa: S101
        services = Services(
            runner=runner,
            policies=policies,
            limiter=Limiter(client),
            metrics=metrics,
            budget=Budget(),
            max_tokens=settings.max_tokens,
            refuse_without_limits=settings.limits_on_error == "refuse",
            audit=audit,
        )
        gate = Gate(
            *(keys, settings.limits),
            keyless=keyless,
            trust_memory=settings.limits_on_error == "allow",
        )
        drain = Drain(metrics)
        app = create_app(Doors(services, gate, client, drain))
        for task in (policies.watch(), _keep_redis(redis)):
            stack.callback(asyncio.create_task(task).cancel)
        # What the start made stays; looking through it for garbage took 0.3 s each time (torch,
        # 600,000 objects), in which no stream went on.
        gc.collect()
        gc.freeze()
        sock.listen()  # who reads the address may connect at once
        _greet(sock, runner.info.id, keyless, say)
        await serve_app(
            app, sock, runner, drain, settings.drain_seconds, receive=settings.receive_seconds
        )


async def serve_app(
    app: ASGIApp,
    sock: socket.socket,
    runner: ModelRunner,
    drain: Drain,
    seconds: float,
    *,
    receive: float,
) -> None:
    """Until a signal comes, and what runs has ended, `seconds` later at most. Raises EngineLost.

    receive: see `gateway.receiving`.
    """
    config = uvicorn.Config(
        InTime(app, receive),
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=CLOSING,
    )
    server = DrainingServer(config, drain, seconds, receive)
    watching = asyncio.create_task(lost(runner))

    def stop(_task: asyncio.Task[str]) -> None:
        if not watching.cancelled():
            log.error("the engine is lost, and the process ends: %s", watching.result())
            server.stop(min(seconds, LOST))

    watching.add_done_callback(stop)
    await server.serve(sockets=[sock])
    await server.end()  # what was cut gives back its leases before Redis is left
    if watching.done():
        raise EngineLost(f"the engine is lost: {watching.result()}")
    watching.cancel()


def _bind(settings: Settings) -> socket.socket:
    """The listening socket, taken before anything slow is done."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        sock.close()
        where = f"{settings.host}:{settings.port}"
        raise SettingsInvalid(f"--port: cannot listen on {where}: {error.strerror}") from error
    return sock


async def _keep_redis(endpoint: RedisEndpoint, seconds: float = 1.0) -> None:
    """Bring the embedded Redis back if it dies. On the main thread, as its tether asks."""
    while endpoint.embedded is not None:
        await asyncio.sleep(seconds)
        if endpoint.embedded.alive:
            continue
        log.error("the embedded Redis is gone; starting it again")
        try:
            endpoint.embedded.start()
        except RedisUnavailable as error:
            log.error("it does not start: %s", error)  # noqa: TRY400  (one line, no trace)


def _greet(sock: socket.socket, model: str, keyless: bool, say: Say) -> None:
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if keyless:
        say("no keys: serving this machine only, without asking who calls (`gardefou keys add`)")
    key = "" if keyless else ' -H "authorization: Bearer $GARDEFOU_KEY"'
    say(f"serving {model} on {url}/v1    metrics: {url}/metrics")
    say(
        f"try: curl {url}/v1/chat/completions{key} -H 'content-type: application/json' -d "
        f'\'{{"model": "{model}", "messages": [{{"role": "user", "content": '
        '"Translate to French: Good morning."}]}\''
    )
