"""Stop strings in text that grows."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Releases text that cannot belong to a stop string any more; ends at the first one complete.

    The stop string that *ends* first wins (of those that end together, the one that starts first),
    so that the result does not depend on how the text is cut.

    seen: text that is out already; a stop string may begin in it.
    """

    def __init__(self, stops: Sequence[str], seen: str = "") -> None:
        self._stops = tuple(stops)
        self._reach = max((len(stop) for stop in self._stops), default=1) - 1
        self._buffer = seen[max(0, len(seen) - self._reach) :]
        self._out = len(self._buffer)  # how much of the buffer is released
        self._begun = self._held(len(self._buffer))
        self.stopped = False

    def push(self, text: str) -> str:
        """Add `text`; returns what is released now. Nothing is released after a stop string."""
        if self.stopped:
            return ""
        self._buffer += text
        hits = [
            (at + len(stop), at) for stop in self._stops if (at := self._buffer.find(stop)) >= 0
        ]
        if hits:
            self.stopped = True
            return self._release(min(hits)[1])
        self._begun = self._held(self._begun + len(text))
        released = self._release(len(self._buffer) - self._begun)
        drop = max(0, self._out - self._reach)
        self._buffer, self._out = self._buffer[drop:], self._out - drop
        return released

    def flush(self) -> str:
        """The text is over: returns what was held back."""
        return "" if self.stopped else self._release(len(self._buffer))

    def _release(self, end: int) -> str:
        start, self._out = self._out, max(self._out, end)
        return self._buffer[start : self._out]

    def _held(self, most: int) -> int:
        """Length of the longest tail that a stop string could begin with.

        most: it is no longer; what was begun before, and what has come since. So the time is linear
        in the text, however long the stop strings are.
        """
        for size in range(min(self._reach, len(self._buffer), most), 0, -1):
            tail = self._buffer[-size:]
            if any(len(stop) > size and stop.startswith(tail) for stop in self._stops):
                return size
        return 0
