"""Server-sent events from bytes, however the bytes are cut.

As in https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream, save
that an event at the end of the stream counts without its blank line, as some engines leave it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 4 * 1024 * 1024
_LINE_END: Final = re.compile(rb"\r\n?|\n")
_BOM: Final = b"\xef\xbb\xbf"


class TooLong(ValueError):
    """A line, or the data of one event, is longer than the parser keeps."""


@dataclass(frozen=True, slots=True)
class Event:
    data: str
    event: str = "message"


class Parser:
    """Feed it bytes, then finish. Time is linear in the bytes, memory at most `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = b""
        self._skip_lf = False
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Events that this chunk completes. Raises: TooLong."""
        if not chunk:
            return
        if self._skip_lf and chunk[:1] == b"\n":  # the other half of a CRLF that was cut
            chunk = chunk[1:]
        self._skip_lf = chunk[-1:] == b"\r"
        start = 0
        for end in _LINE_END.finditer(chunk):
            self._keep(chunk[start : end.start()])
            start = end.end()
            yield from self._end_line()
        self._keep(chunk[start:])

    def finish(self) -> Iterator[Event]:
        """The event that the stream's end completes. Raises: TooLong."""
        yield from self._end_line()
        yield from self._dispatch()

    def _keep(self, part: bytes) -> None:
        self._line_bytes += len(part)
        if self._line_bytes > self._max_bytes:
            raise TooLong(f"a line is longer than {self._max_bytes} bytes")
        if part:
            self._line.append(part)

    def _end_line(self) -> Iterator[Event]:
        line = b"".join(self._line)
        self._line, self._line_bytes = [], 0
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            yield from self._dispatch()
            return
        name, _, value = line.partition(b":")  # a comment has no name
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_bytes:
                raise TooLong(f"an event is longer than {self._max_bytes} bytes")
            self._data.append(value)
        elif name == b"event":
            self._event = value

    def _dispatch(self) -> Iterator[Event]:
        data, event = self._data, self._event
        self._data, self._data_bytes, self._event = [], 0, b""
        if data:
            # Only whole lines are decoded, so a character cut between chunks is whole again.
            text = b"\n".join(data).decode(errors="replace")
            yield Event(text, event.decode(errors="replace") or "message")
