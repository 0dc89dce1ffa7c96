"""Answers on their way out, whatever the dialect: frames, keep-alives, clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.errors import ClientGone, ShuttingDown, http_error
from gateway.exchange import Exchange
from gateway.wire.dialect import Dialect, Json, Written

Result = TypeVar("Result")


async def unless_gone(
    request: Request,
    work: Awaitable[Result],
    drop: Callable[[Result], Awaitable[None]] | None = None,
) -> Result:
    """Do `work`, and cancel it if the client goes away. Raises ClientGone, ShuttingDown.

    drop: closes a result that came all the same: a cancellation can be too late, or be swallowed.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(gone())
    handed_on = False
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            handed_on = True
            return working.result()
        watching.result()
        raise ClientGone("the client went away")
    finally:
        watching.cancel()
        working.cancel()
        ended, _ = await asyncio.gather(working, watching, return_exceptions=True)
        if drop is not None and not handed_on and not isinstance(ended, BaseException):
            await drop(ended)


class _Ending(Response):
    """Ends the exchange when the client has all, goes away, or the server cuts it."""

    _exchange: Exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._exchange.aclose()


class EventStream(_Ending, StreamingResponse):
    """Server-sent events."""

    def __init__(self, exchange: Exchange, frames: AsyncGenerator[bytes, None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"} | exchange.headers
        super().__init__(frames, media_type="text/event-stream", headers=headers)
        self._exchange = exchange

    async def listen_for_disconnect(self, receive: Receive) -> None:
        try:
            await super().listen_for_disconnect(receive)
        except ShuttingDown as error:
            self._exchange.cut(error)  # the last frame says so
            await super().listen_for_disconnect(receive)


class WholeAnswer(_Ending, JSONResponse):
    """An answer in one piece; filters that only watch may still be at it when it leaves."""

    def __init__(self, exchange: Exchange, body: Json) -> None:
        super().__init__(body, headers=exchange.headers)
        self._exchange = exchange


async def frames(
    dialect: Dialect[Any], exchange: Exchange, written: Written, keep_alive: float
) -> AsyncGenerator[bytes, None]:
    """The answer's frames; a fault in the middle is a frame that says so, and no end follows.

    keep_alive: seconds without a frame after which one that says nothing is sent.
    """
    try:
        async for chunk in _with_pauses(written.chunks(), keep_alive):
            yield dialect.waiting if chunk is None else dialect.frame(chunk)
        await exchange.settle()  # a client that has read the end may send its next request
        for chunk in written.end():
            yield dialect.frame(chunk)
        if dialect.done:
            yield dialect.done
    except Exception as error:  # noqa: BLE001  (as `guarded` in app; the status line is out already)
        yield dialect.frame(written.fault(http_error(error, form=dialect.error)[1]))


async def _with_pauses(chunks: AsyncIterator[Json], seconds: float) -> AsyncIterator[Json | None]:
    """The chunks, and None whenever none has come for `seconds`."""
    upcoming: asyncio.Future[Json] | None = None
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
