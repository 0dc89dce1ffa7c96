"""The HTTP application: routes, and the request's way from bytes to an exchange and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from filters.parties import PARTY, Party
from filters.types import Context
from gateway.body import read_body
from gateway.caller import Gate
from gateway.drain import Counted, Drain
from gateway.errors import (
    Form,
    InvalidBody,
    LimitsUnavailable,
    ScreeningFailed,
    UnknownModel,
    UnknownPath,
    http_error,
    openai_form,
    short,
)
from gateway.exchange import Exchange, Services, admit
from gateway.judging import judge_text
from gateway.paths import ANTHROPIC, form_of, unknown, wrong_method
from gateway.request_log import RequestLog
from gateway.streaming import EventStream, WholeAnswer, frames, unless_gone
from gateway.wire import (
    anthropic_messages,
    anthropic_models,
    detections,
    openai_chat,
    openai_completions,
    openai_responses,
)
from gateway.wire.dialect import Dialect, Generate
from gateway.wire.openai_moderations import ModerationRequest, answer
from model_runner.types import ModelInfo
from policies.plan import Policy
from policies.screen import whole
from policies.types import Verdict

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
    # Redirects would go to whatever host the request names, and a description that takes no key
    # would be one more way in.
    app = FastAPI(title="Gardefou", openapi_url=None, redirect_slashes=False)
    app.add_middleware(Counted, drain=doors.drain)
    app.add_middleware(RequestLog, metrics=doors.services.metrics)  # the outermost: it logs all
    app.add_exception_handler(Exception, _answer_error)
    app.add_exception_handler(HTTPException, _answer_no_route)
    api = _Api(doors)
    for dialect in DIALECTS:
        app.add_api_route(dialect.path, api.answering(dialect), methods=["POST"])
    app.add_api_route("/v1/moderations", api.moderations, methods=["POST"])
    app.add_api_route(detections.PATH, api.detections, methods=["POST"])
    for path, endpoint in (
        ("/v1/models", api.models),
        ("/v1/models/{model:path}", api.model),
        ("/healthz", api.healthz),
        ("/readyz", api.readyz),
        ("/metrics", api.metrics),
    ):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"])  # the server leaves out bodies
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
        body: Generate = await read_body(request, dialect.body)
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
            return WholeAnswer(exchange, whole)
        except BaseException:
            await exchange.aclose()
            raise

    async def moderations(self, request: Request) -> Response:
        return await _guarded(request, self._moderations)

    async def _moderations(self, request: Request) -> Response:
        self._doors.drain.check()
        caller = await self._doors.gate.caller(request.headers)
        body = await read_body(request, ModerationRequest)
        policy = self._services.policies.get(caller.policy).enforced()
        lease = await admit(self._services, caller, 0)
        try:
            moderating = self._moderated(policy, body.texts(), caller.id)
            verdicts = await unless_gone(request, moderating)
        finally:
            with suppress(LimitsUnavailable):
                await lease.settle(tokens_used=0)
        return JSONResponse(answer(body.model, verdicts, caller.role), headers=lease.headers)

    async def _moderated(self, policy: Policy, texts: Iterable[str], tenant: str) -> list[Verdict]:
        return [await self._verdict(policy, text, tenant) for text in texts]

    async def _verdict(self, policy: Policy, text: str, tenant: str) -> Verdict:
        plan = policy.plan("input", role="user")
        runner = self._services.runner
        judge = judge_text(runner, "input", text, tenant) if runner.capabilities.score else None
        context = Context("input", judge=judge)
        verdict = await whole(plan, context, text, budget=self._services.budget)
        if verdict.failed:
            raise ScreeningFailed("a filter failed, and nothing can be said of the text")
        return verdict

    async def detections(self, request: Request) -> Response:
        return await _guarded(request, self._detections, detections.form)

    async def _detections(self, request: Request) -> Response:
        self._doors.drain.check()
        caller = await self._doors.gate.caller(request.headers)
        detector = request.headers.get(detections.HEADER)
        if detector is None:
            raise InvalidBody(f"the header `{detections.HEADER}` is missing", detections.HEADER)
        body = await read_body(request, detections.DetectionRequest)
        policy = self._services.policies.get(caller.policy).enforced()
        lease = await admit(self._services, caller, 0)
        try:
            budget = self._services.budget
            finding = detections.detect(policy, detector, body, caller.role, budget)
            found = await unless_gone(request, finding)
        finally:
            with suppress(LimitsUnavailable):
                await lease.settle(tokens_used=0)
        return JSONResponse(found, headers=lease.headers)

    async def models(self, request: Request) -> Response:
        async def listed(request: Request) -> Response:
            await self._doors.gate.caller(request.headers)
            info = self._services.runner.info
            if ANTHROPIC in request.headers:
                return JSONResponse(anthropic_models.listed(info))
            return JSONResponse({"object": "list", "data": [_described(info)]})

        return await _guarded(request, listed, _form(request))

    async def model(self, request: Request, model: str) -> Response:
        async def found(request: Request) -> Response:
            if not model:
                raise _no_route(request)
            await self._doors.gate.caller(request.headers)
            self._known(model)
            info = self._services.runner.info
            described = anthropic_models.described if ANTHROPIC in request.headers else _described
            return JSONResponse(described(info))

        return await _guarded(request, found, _form(request))

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
            raise UnknownModel(
                f"the model {short(model)!r} is not served here; there is {served!r}"
            )
        return served


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
    }


def _form(request: Request) -> Form:
    return form_of(request.scope["path"], request.headers)


def _no_route(request: Request) -> UnknownPath:
    known = {path for route in request.app.routes if "{" not in (path := route.path)}
    return unknown(request.method, request.scope["path"], known)


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
    language = request.headers.get("accept-language", "")
    status, body, headers = http_error(error, language, form)
    return JSONResponse(body, status_code=status, headers=dict(headers))


async def _answer_no_route(request: Request, error: Exception) -> Response:
    """What the framework answers itself: there is no such path, or not with this method."""
    told: Exception = _no_route(request)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        told = wrong_method(request.method, request.scope["path"], allow)
    return _answer_error(request, told, _form(request))


def _annotate(dialect: Dialect[Any], request: Request) -> bool:
    """Whether filter results are asked for. Raises InvalidBody where there is no place for them."""
    given = request.headers.get(FILTER_RESULTS, "0")
    asked = given.lower() in {"1", "true", "yes"}
    if not asked and given.lower() not in {"0", "false", "no"}:
        raise InvalidBody(
            f"the header {FILTER_RESULTS} is 1, true or yes, or left out", FILTER_RESULTS
        )
    if asked and not dialect.annotates:
        raise InvalidBody(
            f"answers of {dialect.path} have no place for filter results: leave out "
            f"the header {FILTER_RESULTS}",
            FILTER_RESULTS,
        )
    return asked
