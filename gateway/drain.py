"""How serving ends: nothing new is taken, what runs may finish, then all is closed in order.

A first SIGTERM or Ctrl-C begins the drain: new requests get a 503 with `retry-after`, `/readyz`
fails so that a balancer looks elsewhere, and answers under way get their time. What still runs then
is ended: a stream by an error in its dialect, anything else by a 503. A second signal ends at once.
An engine that is lost for good begins it too.
"""

from __future__ import annotations

import asyncio
import logging
from types import FrameType

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ShuttingDown, http_error
from gateway.metrics import Metrics
from gateway.paths import form_of
from gateway.receiving import Connection
from model_runner.types import ModelRunner

log = logging.getLogger("gardefou")

#: Seconds that answers get when the engine is lost: most have failed already.
LOST = 5.0
#: Seconds for those that are cut to say so and to give back what they hold, and for connections to
#: close behind the drain.
CLOSING = 2
#: Uvicorn's ticks, ten in a second, between two looks at what has not arrived.
TICKS = 5
#: Seconds between two looks at the engine's health.
LOOK = 0.5


class Drain:
    """Knows which requests run, and whether more are taken."""

    def __init__(self, metrics: Metrics) -> None:
        self.begun = False
        self.over = False  # what runs is ended
        self._metrics = metrics
        self._running: set[Running] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self.begun = True
        self._metrics.draining.set(1)

    def check(self) -> None:
        """Raises ShuttingDown once the drain has begun."""
        if self.begun:
            raise going_down()

    @property
    def running(self) -> int:
        return len(self._running)

    def enter(self, request: Running) -> None:
        self._running.add(request)
        self._idle.clear()

    def leave(self, request: Running) -> None:
        self._running.discard(request)
        if not self._running:
            self._idle.set()

    def cut(self) -> None:
        """Whoever waits for its client is told that it ends; it may still say so."""
        if not self.over:
            self.over = True
            for request in list(self._running):
                request.cut()

    def cancel(self) -> None:
        """End what was cut and goes on."""
        for request in list(self._running):
            request.cancel()

    async def idle(self, seconds: float) -> bool:
        """Wait until no request runs, but no longer than that. Whether none does."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def going_down() -> ShuttingDown:
    return ShuttingDown("The gateway is going down. Try again shortly.")


class Running:
    """A request that runs. What may take long also waits in `receive`, for its client to go."""

    def __init__(self, drain: Drain, receive: Receive, send: Send) -> None:
        self.begun = False  # its answer has
        self.all = asyncio.timeout(None)
        self._waits: asyncio.Timeout | None = None
        self._told = False
        self._drain = drain
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """Raises ShuttingDown, once, when running requests are cut."""
        if self._drain.over and not self._told:
            self._told = True
            raise going_down()
        waits = asyncio.timeout(None)
        try:
            async with waits:
                self._waits = waits
                return await self._receive()
        except TimeoutError:
            if not waits.expired():
                raise
            self._told = True
            raise going_down() from None
        finally:
            self._waits = None

    async def send(self, message: Message) -> None:
        self.begun = True
        await self._send(message)

    def cut(self) -> None:
        if self._waits is not None:
            self._waits.reschedule(0.0)

    def cancel(self) -> None:
        if not self.all.expired():
            self.all.reschedule(0.0)


class Counted:
    """Middleware: each request runs from its first byte to its last, work behind it included."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Running(self._drain, receive, send)
        try:
            async with request.all:
                self._drain.enter(request)
                await self._app(scope, request.receive, request.send)
        except TimeoutError:
            if not request.all.expired():
                raise
            if not request.begun:
                form = form_of(scope["path"], Headers(scope=scope))
                status, body, headers = http_error(going_down(), form=form)
                await JSONResponse(body, status, headers)(scope, receive, send)
        finally:
            self._drain.leave(request)


class DrainingServer(uvicorn.Server):
    """Uvicorn, but it goes on answering while it drains, and waits for no request for ever.

    Its own way closes the door at once, and raises the signal again when it is done, which would
    end the process before anything behind it is closed.

    seconds: that running answers get. receive: those that requests get to arrive.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Drain, seconds: float, receive: float
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._seconds = seconds
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._stopping: asyncio.Task[None] | None = None

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(self._receive)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Between two instructions of whatever runs: nothing but this is safe here.
        self._loop.call_soon_threadsafe(self._signalled)

    def _signalled(self) -> None:
        if self._stopping is None:
            self.stop(self._seconds)
            return
        log.warning("a second signal: ending at once, %d requests are cut", self._drain.running)
        self._drain.cut()
        self.force_exit = self.should_exit = True

    def stop(self, seconds: float) -> None:
        """Drain for so long at most, then end. Nothing, if that has begun."""
        if self._stopping is None:
            self._drain.begin()
            self._stopping = asyncio.create_task(self._stop(seconds), name="drain")

    async def _stop(self, seconds: float) -> None:
        log.info("draining: %d requests run, for %g s at most", self._drain.running, seconds)
        if not await self._drain.idle(seconds):
            log.warning("%d requests are cut: they still run", self._drain.running)
            self._drain.cut()
            await self.end()
        self.should_exit = True

    async def end(self) -> None:
        """Wait for what was cut; then do not wait for who reads or listens no more."""
        if await self._drain.idle(CLOSING):
            return
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.abort()
        self._drain.cancel()
        await self._drain.idle(CLOSING)


async def lost(runner: ModelRunner) -> str:
    """Wait until the engine will not be well again; what it says of that."""
    while not (health := runner.health()).fatal:  # noqa: ASYNC110  (engines push nothing)
        await asyncio.sleep(LOOK)
    return health.detail or "its device failed"
