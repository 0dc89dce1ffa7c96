"""
FilterError
├── FilterConfigError   the YAML of a filter does not make a filter (path inside it, and why)
└── FilterFailed        a filter could not do its work on this text; the policy's `on_error` decides
    ├── FilterTimeout   … within its time limit
    └── FilterOverloaded … because too much waits for it already
"""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb

#: Characters of a value that a message quotes.
_QUOTED = 60


class FilterError(Exception):
    """Base of all errors of this package."""


class FilterConfigError(FilterError):
    """A filter's options do not make a filter.

    path: keys from the filter's options down to what is wrong, for pointing at its line.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class FilterFailed(FilterError):
    """A filter could not do its work on this text."""


class FilterTimeout(FilterFailed):
    """A filter passed its time limit."""


class FilterOverloaded(FilterFailed):
    """Too much waits for a filter already; the text was not looked at."""


def quoted(value: object) -> str:
    """A value of the YAML as a message says it; of a long one, the beginning."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = str(value)
    short = text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
    return repr(short) if isinstance(value, str) else short


def no_text(value: object) -> str | None:
    """What is wrong with a number, or `true`, where text should be."""
    if not isinstance(value, int | float):
        return None
    what = "no text" if isinstance(value, bool) else "a number"
    return f"{quoted(value)} is {what}; write it in quotes"


def place(error: BaseException) -> str:
    """The file and the line that raised it, once it was raised."""
    last = extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
