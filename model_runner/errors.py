"""
RunnerError
├── BadRequest     the request cannot be served as it is: names the parameter
│   └── Unsupported    … because this engine cannot do that
├── Overloaded     no room now; try again after `retry_after` seconds
├── Unavailable    the engine is not there (starting, dead, unreachable)
├── NotAdmitted    the engine refused this gateway's credentials; no client can mend that
└── EngineFailed   the engine failed on this request
"""

from __future__ import annotations


class RunnerError(Exception):
    """Base of all errors of this package. Messages hold no user's text."""


class BadRequest(RunnerError):
    """The request cannot be served as it is. `param`: the field at fault, by its OpenAI name."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(BadRequest):
    """This engine cannot do that."""


class Overloaded(RunnerError):
    """No room now. `retry_after`: seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(RunnerError):
    """The engine is not there."""


class NotAdmitted(RunnerError):
    """The engine refused this gateway's credentials."""


class EngineFailed(RunnerError):
    """The engine failed on this request."""
