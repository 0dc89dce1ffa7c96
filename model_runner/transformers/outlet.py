"""From the engine thread to the event loops that wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from model_runner.errors import RunnerError
from model_runner.types import Delta

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Handover:
    """Calls for event loops, gathered on the engine thread: each loop is woken once per flush."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.AbstractEventLoop, list[Call]] = {}

    def add(
        self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any
    ) -> None:
        self._calls.setdefault(loop, []).append((call, arguments))

    def answer(
        self, future: asyncio.Future[Any], value: Any = None, error: RunnerError | None = None
    ) -> None:
        """Settle a future of some event loop with the next flush."""
        self.add(future.get_loop(), _settle, future, value, error)

    def flush(self) -> None:
        calls, self._calls = self._calls, {}
        for loop, those in calls.items():
            try:
                loop.call_soon_threadsafe(_run, those)
            except RuntimeError:  # the loop is closed: nobody reads any more
                continue


def _settle(future: asyncio.Future[Any], value: Any, error: RunnerError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _run(calls: list[Call]) -> None:
    for call, arguments in calls:
        call(*arguments)


class Outlet:
    """A choice's deltas for its reader, on one event loop. Of that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[Delta | RunnerError] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def put(self, item: Delta | RunnerError) -> None:
        self._items.append(item)
        self._arrived.set()

    def restart(self) -> None:
        """Drop what the reader has not seen."""
        self._items.clear()

    def end(self) -> None:
        """The reader has closed the choice."""
        self._ended = True
        self._items.clear()
        self._arrived.set()

    async def get(self) -> Delta | RunnerError | None:
        """The next item; None once ended."""
        while not self._items and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        return None if self._ended else self._items.popleft()
