"""The boundary behind which no fault of a model or library passes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from model_runner.errors import EngineFailed, RunnerError

T = TypeVar("T")

logger = logging.getLogger(__name__)


def attempt(work: Callable[[], T]) -> tuple[T | None, RunnerError | None]:
    """The result or the error; what is no RunnerError becomes EngineFailed."""
    try:
        return work(), None
    except RunnerError as error:
        return None, error
    except Exception as error:  # noqa: BLE001 - one request's fault must not end the engine
        return None, failed(error)


def failed(error: Exception) -> EngineFailed:
    """What is told of a fault: never its message, which may quote a text."""
    kind = type(error).__name__
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
    logger.error("engine step failed: %s at %s", kind, place)
    return EngineFailed(f"the engine failed on this request ({kind})")
