"""Why filters fail, in the log: the filter and the reason, and no text of anybody's."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from filters.errors import FilterFailed, place
from policies.types import Fault

log = logging.getLogger("gardefou.filters")
# Those who screen without a log, on a terminal, show the faults themselves.
log.addHandler(logging.NullHandler())

EVERY: Final = 1.0  # seconds between two lines on one filter

_told: dict[str, float] = {}


def reason(error: BaseException) -> str:
    """What may be told: FilterFailed's own words; of all else its kind and its place."""
    if isinstance(error, FilterFailed):
        return str(error)
    return f"{type(error).__name__} at {place(error)}"


def note(fault: Fault) -> None:
    """One line, unless one on that filter was written just now."""
    now = monotonic()
    if now - _told.get(fault.filter, -EVERY) >= EVERY:
        _told[fault.filter] = now
        log.warning("`%s` fails (%s): %s", fault.filter, fault.on_error, fault.reason)
