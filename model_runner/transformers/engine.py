"""The engine thread: owns the model and every sequence, and is the only one to touch them.

1. `submit` queues the choices of a request; `call` queues a job on one of them (score, rewind).
2. Jobs run before each step, so that none waits for more than one step.
3. Up to `concurrency` sequences are under way; each gets a step in turn.
4. What a step tells goes to the choice's `Outlet`, on the event loop of the one who asked.
5. An exception ends that choice alone. Faults in three steps running fail health.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from model_runner.errors import EngineFailed, Overloaded, RunnerError, Unavailable
from model_runner.transformers.outlet import Outlet
from model_runner.transformers.sequence import Sequence
from model_runner.types import Health

T = TypeVar("T")

logger = logging.getLogger(__name__)

SICK_AFTER = 3  # steps that failed one after another


class Choice:
    """A sequence with its outlet. Setting `closed` frees it before its next step."""

    def __init__(self, sequence: Sequence, outlet: Outlet) -> None:
        self.sequence = sequence
        self.outlet = outlet
        self.closed = False
        self.failed = False
        self.started = 0.0


class Engine:
    """concurrency: sequences under way at once. queue: requests that may wait for that."""

    def __init__(self, *, concurrency: int, queue: int) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting: deque[list[Choice]] = deque()
        self._running: deque[Choice] = deque()
        self._stopping = False
        self._faults = 0
        self._seconds = 1.0  # that a choice takes, smoothed
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; blocks for that. What is under way is told so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def health(self) -> Health:
        if not self._thread.is_alive():
            return Health(False, "the engine thread is not running")
        if self._faults >= SICK_AFTER:
            return Health(False, f"the last {self._faults} steps failed")
        return Health(True)

    def submit(self, choices: list[Choice]) -> None:
        """Queue the choices of one request. Raises Overloaded, Unavailable."""
        with self._changed:
            self._check_alive()
            self._waiting = deque(g for g in self._waiting if not all(c.closed for c in g))
            if len(self._waiting) >= self._queue:
                wait = self._seconds * len(self._waiting) / self._concurrency
                raise Overloaded("too many requests are waiting", min(60.0, max(1.0, wait)))
            self._waiting.append(choices)
            self._changed.notify()

    def free(self, choice: Choice) -> None:
        """Forget a closed choice, before the next step."""
        with self._changed:
            self._jobs.append((choice.sequence.free, Future()))
            self._changed.notify()

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine thread between two steps; raises what it raises.

        What is no RunnerError becomes EngineFailed. Raises Unavailable if the thread has ended.
        """
        future: Future[T] = Future()
        with self._changed:
            self._check_alive()
            self._jobs.append((work, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def resume(self, choice: Choice) -> None:
        """Go on with a choice that had finished. For jobs: on the engine thread only."""
        with self._changed:
            queued = any(choice in group for group in self._waiting)
        if not queued and choice not in self._running:
            self._running.append(choice)

    def _check_alive(self) -> None:
        if self._stopping or not self._thread.is_alive():
            raise Unavailable("the engine is not running")

    def _run(self) -> None:
        try:
            while self._wait():
                self._do_jobs()
                self._admit()
                self._step()
        finally:
            self._abandon()

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._jobs or self._waiting or self._running
            )
            return not self._stopping

    def _do_jobs(self) -> None:
        while self._jobs:
            work, future = self._jobs[0]
            if future.set_running_or_notify_cancel():
                result, error = attempt(work)
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            self._jobs.popleft()

    def _admit(self) -> None:
        with self._changed:
            while self._waiting:
                group = [choice for choice in self._waiting[0] if not choice.closed]
                if self._running and len(self._running) + len(group) > self._concurrency:
                    return
                self._waiting.popleft()
                self._running.extend(group)

    def _step(self) -> None:
        if not self._running:
            return
        choice = self._running[0]  # and stays there, so that no end of the thread forgets it
        if choice.closed:
            self._running.popleft()
            return
        choice.started = choice.started or time.monotonic()
        delta, error = attempt(choice.sequence.step)
        self._running.popleft()
        if error is not None:
            self._faults += 1
            choice.failed = True
            choice.outlet.fail(error)
            return
        self._faults = 0
        if delta is not None:
            choice.outlet.send(delta)
        if choice.sequence.finish_reason is None:
            self._running.append(choice)
        else:
            self._seconds += 0.2 * (time.monotonic() - choice.started - self._seconds)

    def _abandon(self) -> None:
        """The thread ends: nobody is left waiting."""
        with self._changed:
            self._stopping = True
            error = Unavailable("the engine has stopped")
            for choice in [*self._running, *(c for group in self._waiting for c in group)]:
                choice.outlet.fail(error)
            for _, future in self._jobs:
                if not future.done():
                    future.set_exception(error)
            self._running.clear()
            self._waiting.clear()
            self._jobs.clear()


def attempt(work: Callable[[], T]) -> tuple[T | None, RunnerError | None]:
    """The result or the error. The boundary behind which no fault of a model or library passes."""
    try:
        return work(), None
    except RunnerError as error:
        return None, error
    except Exception as error:  # noqa: BLE001 - one request's fault must not end the engine
        kind = type(error).__name__  # never the message: it may quote a text
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
        logger.error("engine step failed: %s at %s", kind, place)  # noqa: TRY400
        return None, EngineFailed(f"the engine failed on this request ({kind})")
