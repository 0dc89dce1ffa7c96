"""What goes wrong with the upstream, in the log: its host and the fault, and no text or key."""

from __future__ import annotations

import logging
import time
from typing import Final
from urllib.parse import urlsplit

from model_runner.errors import BadRequest, RunnerError

log = logging.getLogger("gardefou.upstream")

EVERY: Final = 1.0  # seconds between two lines that say the same


class FaultLog:
    """Of one upstream. Messages of our own errors hold no text of anybody's."""

    def __init__(self, url: str) -> None:
        # Without what may stand before it: a name and a password.
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._told: dict[str, float] = {}

    def note(self, fault: RunnerError | str) -> None:
        """One line, unless the same was said just now. A bad request is no fault of the engine."""
        if isinstance(fault, BadRequest):
            return
        why, now = str(fault), time.monotonic()
        if now - self._told.get(why, -EVERY) >= EVERY:
            self._told[why] = now
            log.warning("%s: %s", self._host, why)
