"""Whose a cancellation is."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """Whether somebody cancels the task that runs.

    If not, a CancelledError in it is another's: of a future that it waited for, say.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
