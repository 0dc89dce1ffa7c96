"""Whose texts wait: requests take turns at what all of them share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar


class Party:
    """One request, of one event loop. It has no more than `most` texts in queues at a time.

    So one that has thousands fills no queue that others need: they wait here, first come first
    served. Its calls share the room: a short text beside long ones of the same request does not
    wait for all of theirs.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._left = most
        self._calls = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextmanager
    def call(self) -> Iterator[Callable[[], int]]:
        """A call with many texts. What it yields tells how many it may put into a queue now."""
        self._calls += 1
        try:
            yield lambda: max(1, self._most // self._calls)
        finally:
            self._calls -= 1

    @asynccontextmanager
    async def room(self, texts: int) -> AsyncIterator[None]:
        """Room for so many texts at once; for more than `most`, all that there is."""
        texts = min(texts, self._most)
        if self._line or self._left < texts:
            await self._wait(texts)
        else:
            self._left -= texts
        try:
            yield
        finally:
            self._give_back(texts)

    async def _wait(self, texts: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append((texts, turn))
        try:
            await turn  # whoever ends the wait takes the room for it
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(texts)
            raise

    def _give_back(self, texts: int) -> None:
        self._left += texts
        while self._line and (self._line[0][1].done() or self._line[0][0] <= self._left):
            wanted, turn = self._line.popleft()
            if not turn.done():  # it is if who waited was cancelled
                self._left -= wanted
                turn.set_result(None)


#: The party of the task that asks. Where none is set, each call is one of its own.
PARTY: ContextVar[Party | None] = ContextVar("party", default=None)
