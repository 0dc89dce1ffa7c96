"""The HTTP application: routes, and the request's way from bytes to an exchange and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from filters.parties import PARTY, Party
from filters.types import Context, Piece
from gateway.caller import Gate
from gateway.drain import Counted, Drain
from gateway.errors import (
    ClientGone,
    Form,
    InvalidBody,
    LimitsUnavailable,
    ScreeningFailed,
    UnknownModel,
    http_error,
    openai_form,
)
from gateway.exchange import Exchange, Services, admit
from gateway.judging import judge_text
from gateway.request_log import RequestLog
from gateway.streaming import EventStream, WholeAnswer, frames, unless_gone
from gateway.wire import (
    anthropic_messages,
    detections,
    openai_chat,
    openai_completions,
    openai_responses,
)
from gateway.wire.dialect import Dialect, Generate
from gateway.wire.openai_moderations import ModerationRequest, answer
from policies.plan import Policy
from policies.screen import StreamScreen
from policies.types import Verdict

Body = TypeVar("Body", bound=BaseModel)

#: Bytes of a request's body. A context of 128 Ki tokens is about half a megabyte of text.
MOST_BYTES = 8 * 1024 * 1024
#: Each a file in `gateway/wire/`.
DIALECTS: tuple[Dialect[Any], ...] = (
    openai_chat.DIALECT,
    openai_completions.DIALECT,
    openai_responses.DIALECT,
    anthropic_messages.DIALECT,
)
#: Seconds without a frame after which a comment keeps the connection alive.
KEEP_ALIVE = 10.0


@dataclass(frozen=True)
class Doors:
    """What the routes need besides `Services`."""

    services: Services
    gate: Gate
    redis: Redis
    drain: Drain
    keep_alive: float = KEEP_ALIVE


#: The header that asks for what the filters found.
FILTER_RESULTS = "x-gardefou-filter-results"


def create_app(doors: Doors) -> FastAPI:
    """The application."""
    app = FastAPI(title="Gardefou", docs_url=None, redoc_url=None)
    app.add_middleware(RequestLog, metrics=doors.services.metrics)
    app.add_middleware(Counted, drain=doors.drain)
    app.add_exception_handler(Exception, _answer_error)
    api = _Api(doors)
    for dialect in DIALECTS:
        app.add_api_route(dialect.path, api.answering(dialect), methods=["POST"])
    app.add_api_route("/v1/moderations", api.moderations, methods=["POST"])
    app.add_api_route(detections.PATH, api.detections, methods=["POST"])
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

    def answering(self, dialect: Dialect[Any]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of a dialect."""

        async def endpoint(request: Request) -> Response:
            return await _guarded(request, partial(self._answer, dialect), dialect.error)

        return endpoint

    async def _answer(self, dialect: Dialect[Any], request: Request) -> Response:
        self._doors.drain.check()
        caller = await self._doors.gate.caller(request.headers)
        body: Generate = await _body(request, dialect.body)
        model = self._known(body.model)
        annotate = _annotate(dialect, request)
        opening = Exchange.open(self._services, caller, body.neutral(caller.id))
        exchange = await unless_gone(request, opening, Exchange.aclose)
        written = dialect.answer(body, exchange, model, annotate)
        if body.stream:
            sent = frames(dialect, exchange, written, self._doors.keep_alive)
            return EventStream(exchange, sent)
        try:
            whole = await unless_gone(request, written.whole())
            await exchange.settle()
        except BaseException:
            await exchange.aclose()
            raise
        return WholeAnswer(exchange, whole)

    async def moderations(self, request: Request) -> Response:
        return await _guarded(request, self._moderations)

    async def _moderations(self, request: Request) -> Response:
        self._doors.drain.check()
        caller = await self._doors.gate.caller(request.headers)
        body = await _body(request, ModerationRequest)
        # Asked what it finds, a policy that only monitors says so too.
        policy = replace(self._services.policies.get(caller.policy), mode="enforce")
        lease = await admit(self._services, caller, 0)
        try:
            verdicts = [await self._moderated(policy, text, caller.id) for text in body.texts()]
        finally:
            with suppress(LimitsUnavailable):
                await lease.settle(tokens_used=0)
        return JSONResponse(answer(body.model, verdicts, caller.role), headers=lease.headers)

    async def _moderated(self, policy: Policy, text: str, tenant: str) -> Verdict:
        plan = policy.plan("input", role="user")
        runner = self._services.runner
        judge = judge_text(runner, "input", text, tenant) if runner.capabilities.score else None
        context = Context("input", judge=judge)
        screen = StreamScreen(plan, context, budget=self._services.budget)
        try:
            await screen.push(Piece(text), final=True)
            if screen.failed:
                raise ScreeningFailed("a filter failed, and nothing can be said of the text")
            return await screen.verdict()
        finally:
            await screen.aclose()

    async def detections(self, request: Request) -> Response:
        return await _guarded(request, self._detections, detections.form)

    async def _detections(self, request: Request) -> Response:
        self._doors.drain.check()
        caller = await self._doors.gate.caller(request.headers)
        detector = request.headers.get(detections.HEADER)
        if detector is None:
            raise InvalidBody(f"the header `{detections.HEADER}` is missing", detections.HEADER)
        body = await _body(request, detections.DetectionRequest)
        policy = replace(self._services.policies.get(caller.policy), mode="enforce")
        lease = await admit(self._services, caller, 0)
        try:
            budget = self._services.budget
            found = await detections.detect(policy, detector, body, caller.role, budget)
        finally:
            with suppress(LimitsUnavailable):
                await lease.settle(tokens_used=0)
        return JSONResponse(found, headers=lease.headers)

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
        """200 while this process can be of use; 503 when only another one can."""
        if self._services.runner.health().fatal:
            return JSONResponse({"status": "the engine is lost"}, status_code=503)
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
        checks["gateway"] = "going down" if self._doors.drain.begun else "ok"
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


async def _guarded(
    request: Request,
    handle: Callable[[Request], Awaitable[Response]],
    form: Form = openai_form,
) -> Response:
    """Answer errors in the dialect's form; anything unforeseen is a 500 that tells nothing."""
    PARTY.set(Party())  # for all that this request has screened, its answer too
    try:
        return await handle(request)
    except Exception as error:  # noqa: BLE001  (the table in gateway.errors knows what it is)
        return _answer_error(request, error, form)


def _answer_error(request: Request, error: Exception, form: Form = openai_form) -> Response:
    language = request.headers.get("accept-language", "en")
    status, body, headers = http_error(error, language, form)
    return JSONResponse(body, status_code=status, headers=dict(headers))


def _annotate(dialect: Dialect[Any], request: Request) -> bool:
    """Whether filter results are asked for. Raises InvalidBody where there is no place for them."""
    asked = request.headers.get(FILTER_RESULTS, "") in {"1", "true"}
    if asked and not dialect.annotates:
        raise InvalidBody(
            f"answers of {dialect.path} have no place for filter results: leave out "
            f"the header {FILTER_RESULTS}",
            FILTER_RESULTS,
        )
    return asked


async def _body(request: Request, shape: type[Body]) -> Body:
    """The request's body. Raises InvalidBody, naming the field."""
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > MOST_BYTES:
                raise InvalidBody(f"the body has more than {MOST_BYTES} bytes", None)
    except ClientDisconnect:
        raise ClientGone("the client went away") from None
    try:
        return shape.model_validate_json(bytes(raw))
    except ValidationError as error:
        # Of a union, the branch that got furthest is the one that was meant.
        raise _named(max(error.errors(), key=lambda e: len(e["loc"]))) from error


def _named(error: Mapping[str, Any]) -> InvalidBody:
    """The first thing that is wrong with a body, and the field, as `messages[0].content`."""
    if error["type"] == "json_invalid":
        return InvalidBody(f"the body is not JSON: {error['ctx']['error']}", None)
    loc = error["loc"]
    if "[key]" in loc:  # a mapping's bad key is no field, but what the client wrote
        loc = loc[: loc.index("[key]") - 1]
    # A union's branches stand in the path as types; fields are lower-case names, and numbers.
    path = [p for p in loc if isinstance(p, int) or p.replace("_", "").islower()]
    path = [p for p in path if p not in {"str", "bool", "dict"} and "[" not in str(p)]
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or None
    if error["type"] == "union_tag_invalid":
        param, tag = f"{param}.type", error["ctx"]["tag"].strip("[]")
        return InvalidBody(f"{param}: {tag!r} cannot be screened, and is refused", param)
    if error["type"] == "extra_forbidden":
        return InvalidBody(f"Unrecognized request argument supplied: {param}", param)
    if error["type"] == "literal_error" and path and path[-1] == "type":
        return InvalidBody(f"{param}: {error['input']!r} cannot be screened, and is refused", param)
    message = str(error["msg"]).removeprefix("Value error, ")
    return InvalidBody(f"{param}: {message}" if param else message, param)
