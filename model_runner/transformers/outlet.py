"""From the engine thread to the event loop that reads a choice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from model_runner.errors import RunnerError
from model_runner.types import Delta


class Outlet:
    """A choice's deltas on their way to one event loop: one hand-over per step, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Delta | RunnerError] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    # engine thread

    def send(self, delta: Delta) -> None:
        self._hand_over(self._put, delta)

    def fail(self, error: RunnerError) -> None:
        self._hand_over(self._put, error)

    def reset(self, then: Callable[[], None]) -> None:
        """Drop what the reader has not seen of what was sent before, and tell it by `then`."""
        self._hand_over(self._restart, then)

    def _hand_over(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(call, *arguments)
            except RuntimeError:  # closed in between: nobody reads any more
                self._ended = True

    # event loop

    def _put(self, item: Delta | RunnerError) -> None:
        self._items.append(item)
        self._arrived.set()

    def _restart(self, then: Callable[[], None]) -> None:
        self._items.clear()
        then()

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
