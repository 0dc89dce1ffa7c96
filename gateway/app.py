"""The HTTP application: routes, and the request's way from bytes to an exchange and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.background import BackgroundTask
from starlette.types import Receive, Scope, Send

from filters.types import Context, Piece
from gateway.caller import Gate
from gateway.errors import ClientGone, InvalidBody, LimitsUnavailable, UnknownModel, http_error
from gateway.exchange import Exchange, Services, admit
from gateway.request_log import RequestLog
from gateway.wire.openai_chat import DONE, Answer, ChatRequest, frame
from gateway.wire.openai_moderations import ModerationRequest, answer
from policies.plan import Policy
from policies.screen import StreamScreen
from policies.types import Verdict

Body = TypeVar("Body", bound=BaseModel)
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

#: Bytes of a request's body. A context of 128 Ki tokens is about half a megabyte of text.
MOST_BYTES = 8 * 1024 * 1024
#: Seconds without a frame after which a comment keeps the connection alive.
KEEP_ALIVE = 10.0


@dataclass(frozen=True)
class Doors:
    """What the routes need besides `Services`."""

    services: Services
    gate: Gate
    redis: Redis
    keep_alive: float = KEEP_ALIVE


def create_app(doors: Doors, lifespan: Lifespan | None = None) -> FastAPI:
    """The application."""
    app = FastAPI(title="Gardefou", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(RequestLog, metrics=doors.services.metrics)
    app.add_exception_handler(Exception, _answer_error)
    api = _Api(doors)
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"])
    app.add_api_route("/v1/moderations", api.moderations, methods=["POST"])
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", api.model, methods=["GET"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"])
    return app


class _Api:
    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._services = doors.services

    async def chat(self, request: Request) -> Response:
        return await _guarded(request, self._chat)

    async def _chat(self, request: Request) -> Response:
        caller = await self._doors.gate.caller(request.headers)
        body = await _body(request, ChatRequest)
        model = self._known(body.model)
        opening = Exchange.open(self._services, caller, body.neutral(caller.id))
        exchange = await _unless_gone(request, opening)
        annotate = request.headers.get("x-gardefou-filter-results", "") in {"1", "true"}
        written = Answer(body, exchange, model, annotate)
        if body.stream:
            return _Stream(exchange, _frames(exchange, written, self._doors.keep_alive))
        try:
            whole = await _unless_gone(request, written.whole())
            await exchange.settle()
        except BaseException:
            await exchange.aclose()
            raise
        # Filters that only watch may still be at it; the answer does not wait for them.
        return JSONResponse(
            whole, headers=exchange.headers, background=BackgroundTask(exchange.aclose)
        )

    async def moderations(self, request: Request) -> Response:
        return await _guarded(request, self._moderations)

    async def _moderations(self, request: Request) -> Response:
        caller = await self._doors.gate.caller(request.headers)
        body = await _body(request, ModerationRequest)
        # Asked what it finds, a policy that only monitors says so too.
        policy = replace(self._services.policies.get(caller.policy), mode="enforce")
        lease = await admit(self._services, caller, 0)
        try:
            verdicts = [await self._moderated(policy, text) for text in body.texts()]
        finally:
            with suppress(LimitsUnavailable):
                await lease.settle(tokens_used=0)
        return JSONResponse(answer(body.model, verdicts, caller.role), headers=lease.headers)

    async def _moderated(self, policy: Policy, text: str) -> Verdict:
        plan = policy.plan("input", role="user")
        screen = StreamScreen(plan, Context("input"), budget=self._services.budget)
        try:
            await screen.push(Piece(text), final=True)
            return await screen.verdict()
        finally:
            await screen.aclose()

    async def models(self, request: Request) -> Response:
        return await _guarded(request, self._models)

    async def _models(self, request: Request) -> Response:
        await self._doors.gate.caller(request.headers)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request, model: str) -> Response:
        async def found(request: Request) -> Response:
            await self._doors.gate.caller(request.headers)
            self._known(model)
            return JSONResponse(self._described())

        return await _guarded(request, found)

    async def healthz(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """200 when requests can be served; else 503 with what is missing."""
        checks = await self._checks()
        ok = all(check == "ok" for check in checks.values())
        status = {"status": "ok" if ok else "not ready", "checks": checks}
        return JSONResponse(status, status_code=200 if ok else 503)

    async def _checks(self) -> Mapping[str, str]:
        """What serving needs, each `ok` or what is wrong with it."""
        health = self._services.runner.health()
        checks = {"engine": "ok" if health.ok else health.detail or "not ready"}
        try:
            await self._doors.redis.ping()
            checks["redis"] = "ok"
        except (RedisError, OSError) as error:
            checks["redis"] = type(error).__name__
        self._services.metrics.ready.set(set(checks.values()) == {"ok"})
        return checks

    async def metrics(self) -> Response:
        metrics = self._services.metrics
        await self._checks()
        return Response(metrics.render(), media_type=metrics.content_type)

    def _known(self, model: str) -> str:
        served = self._services.runner.info.id
        if model != served:
            raise UnknownModel(f"the model {model!r} is not served here; there is {served!r}")
        return served

    def _described(self) -> dict[str, Any]:
        info = self._services.runner.info
        return {
            "id": info.id,
            "object": "model",
            "created": info.created,
            "owned_by": info.owned_by,
        }


async def _guarded(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer errors in OpenAI's form; anything unforeseen is a 500 that tells nothing."""
    try:
        return await handle(request)
    except Exception as error:  # noqa: BLE001  (the table in gateway.errors knows what it is)
        return _answer_error(request, error)


def _answer_error(request: Request, error: Exception) -> Response:
    language = request.headers.get("accept-language", "en")
    status, body, headers = http_error(error, language)
    return JSONResponse(body, status_code=status, headers=dict(headers))


async def _body(request: Request, shape: type[Body]) -> Body:
    """The request's body. Raises InvalidBody, naming the field."""
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > MOST_BYTES:
            raise InvalidBody(f"the body has more than {MOST_BYTES} bytes", None)
    try:
        return shape.model_validate_json(bytes(raw))
    except ValidationError as error:
        # Of a union, the branch that got furthest is the one that was meant.
        raise _named(max(error.errors(), key=lambda e: len(e["loc"]))) from error


def _named(error: Mapping[str, Any]) -> InvalidBody:
    """The first thing that is wrong with a body, and the field, as `messages[0].content`."""
    if error["type"] == "json_invalid":
        return InvalidBody(f"the body is not JSON: {error['ctx']['error']}", None)
    # A union's branches stand in the path as types; fields are lower-case names, and numbers.
    path = [p for p in error["loc"] if isinstance(p, int) or p.replace("_", "").islower()]
    path = [p for p in path if p not in {"str", "bool", "dict"} and "[" not in str(p)]
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or None
    if error["type"] == "extra_forbidden":
        return InvalidBody(f"Unrecognized request argument supplied: {param}", param)
    if error["type"] == "literal_error" and path and path[-1] == "type":
        return InvalidBody(f"{param}: {error['input']!r} cannot be screened, and is refused", param)
    message = str(error["msg"]).removeprefix("Value error, ")
    return InvalidBody(f"{param}: {message}" if param else message, param)


Result = TypeVar("Result")


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Do `work`, and cancel it if the client goes away. Raises ClientGone."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client went away")
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


class _Stream(StreamingResponse):
    """Server-sent events. Ends the exchange when the client has all, or goes away."""

    def __init__(self, exchange: Exchange, frames: AsyncGenerator[bytes, None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"} | exchange.headers
        super().__init__(frames, media_type="text/event-stream", headers=headers)
        self._exchange = exchange
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._exchange.aclose()


async def _frames(
    exchange: Exchange, written: Answer, keep_alive: float
) -> AsyncGenerator[bytes, None]:
    """The answer's frames; a fault in the middle is an `error` frame, and no `[DONE]` follows."""
    try:
        async for chunk in _with_comments(written.chunks(), keep_alive):
            yield b": waiting\n\n" if chunk is None else frame(chunk)
        await exchange.settle()  # a client that has read the end may send its next request
        yield DONE
    except Exception as error:  # noqa: BLE001  (as in _guarded; the status line is out already)
        yield frame(http_error(error)[1])


async def _with_comments(
    chunks: AsyncIterator[Mapping[str, Any]], seconds: float
) -> AsyncIterator[dict[str, Any] | None]:
    """The chunks, and None whenever none has come for `seconds`."""
    upcoming: asyncio.Future[Any] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                chunk = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield chunk
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
