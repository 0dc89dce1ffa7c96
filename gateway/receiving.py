"""Requests arrive in time or not at all: uvicorn itself waits for the rest of one for ever.

A header block has `seconds` to arrive. A body has them between two of its pieces, so that a slow
and steady upload passes, and `MOST` times as many over all. Connections that are idle between two
requests are uvicorn's matter.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.errors import RequestLate, http_error

#: How many times longer a whole body may take than one of its pieces.
MOST = 10


def _late() -> RequestLate:
    return RequestLate("The request did not arrive in time.")


class InTime:
    """Middleware: a body that comes too slowly is a fault of the request, which raises it."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = asyncio.get_running_loop().time
        end, whole = now() + MOST * self._seconds, False

        async def received() -> Message:
            nonlocal whole
            if whole:  # from here on it only tells that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(min(now() + self._seconds, end)):
                    message = await receive()
            except TimeoutError:
                raise _late() from None
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, received, send)


class Connection(H11Protocol):
    """Uvicorn's protocol, but it knows since when it waits for a request.

    It upgrades to nothing, and does not advise the operator to install something for that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Since when what arrives does so: what has not begun to arrive counts from the beginning.
        self._began: float | None = self.loop.time()
        self._heard = self._began

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._began is None:
            self._began = self._heard
        super().data_received(data)
        if not self._arriving:
            self._began = None

    def check(self, seconds: float) -> None:
        """Close the connection if what it waits for has not come in time."""
        if self._began is None or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.conn.their_state is h11.IDLE:
            if now - self._began > seconds:
                self._refuse()
        # While there is an answer to give, `InTime` sees to the body.
        elif self.cycle.response_complete and (
            now - self._heard > seconds or now - self._began > MOST * seconds
        ):
            self.transport.close()

    def abort(self) -> None:
        """Give up an answer that has begun and not ended: its client may not read it."""
        if getattr(self.cycle, "response_started", False):  # None, before a first request
            self.transport.abort()

    @property
    def _arriving(self) -> bool:
        """Whether a request has begun to arrive and not ended."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _refuse(self) -> None:
        """The header block has not ended. Who sent nothing at all is told nothing."""
        if self.conn.trailing_data[0]:
            status, told, headers = http_error(_late())
            body = json.dumps(told).encode()
            headers |= {"content-type": "application/json", "content-length": str(len(body))}
            for event in (
                h11.Response(status_code=status, headers=list(headers.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False
