"""Middleware: an id for every answer, its duration in the metrics, and one line in the log.

The line holds no text, key or user: method, route, status, milliseconds and id.
"""

from __future__ import annotations

import logging
import re
from secrets import token_hex
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.audit import REQUEST
from gateway.metrics import Metrics

log = logging.getLogger("gardefou.requests")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MODEL = "/v1/models/{id}"
#: What is logged and counted; `/healthz`, `/metrics` and paths that are not there are not.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/moderations": "moderations",
    "/api/v1/text/contents": "detections",
    "/v1/models": "models",
    _MODEL: "models",
}


class RequestLog:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else f"req-{token_hex(12)}"
        REQUEST.set(request_id)
        status = 499  # the client went away before an answer began

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            seconds = perf_counter() - began
            path = _route(scope["path"])
            operation = _OPERATIONS.get(path)
            if operation is not None:
                self._metrics.duration.labels(operation, str(status)).observe(seconds)
                log.info(
                    "%s %s %d %.0f ms %s",
                    scope["method"],
                    path,
                    status,
                    seconds * 1000,
                    request_id,
                )


def _route(path: str) -> str:
    """What a client spells in a path has no place in the log."""
    return _MODEL if path.startswith("/v1/models/") else path
