"""The engine thread: owns model, keys and values, and sampling, and is the only one to touch them.

Event loops hand over through deques (`submit`, `score`, `call`) and are woken once per step.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from model_runner.errors import BadRequest, Overloaded, RunnerError, Unavailable
from model_runner.transformers.choice import Choice, Score
from model_runner.transformers.fence import attempt
from model_runner.transformers.model import Model
from model_runner.transformers.outlet import Handover
from model_runner.transformers.pace import Pace, even
from model_runner.transformers.scheduler import Scheduler
from model_runner.transformers.sequence import Rewind
from model_runner.types import Health

T = TypeVar("T")

SICK_AFTER = 3  # steps that failed one after another


@dataclass(frozen=True)
class Limits:
    """concurrency: choices written at once. queue: choices that may wait for that; of a key that
    has less than its share there, also beyond.

    judges: texts that may be judged at once beside the choices.
    read: prompt tokens a step may read; default 512, on a GPU 2,048. stall: how many times a usual
    step one that also reads prompts may take, while others write.
    """

    concurrency: int = 16
    queue: int = 64
    read: int | None = None
    stall: float = 2.0
    judges: int = 256


class Engine:
    def __init__(self, model: Model, limits: Limits) -> None:
        self._limits = limits
        self._handover = Handover()
        self._store = model.store
        read = limits.read or (2048 if model.device.type == "cuda" else 512)
        pace = Pace(most=read, stall=limits.stall, even=even(model.module))
        self.scheduler = Scheduler(model, self._handover, concurrency=limits.concurrency, pace=pace)
        self._jobs: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._work = threading.Event()
        self._judging = 0  # of the event loop only
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; blocks for that. What is under way is told so."""
        self._stopping = True
        self._work.set()
        if self._thread.ident is not None:
            self._thread.join()

    def health(self) -> Health:
        if self.scheduler.fatal:
            return Health(False, self.scheduler.fatal, fatal=True)
        if not self._thread.is_alive():
            return Health(False, "the engine thread is not running", fatal=not self._stopping)
        if self.scheduler.faults >= SICK_AFTER:
            return Health(False, f"the last {self.scheduler.faults} steps failed")
        return Health(True)

    def stats(self) -> dict[str, float]:
        """What the engine is at and has done; from any thread, a moment's values."""
        scheduler = self.scheduler
        return {
            **asdict(scheduler.counts),
            "waiting": len(scheduler.queue),
            "running": len(scheduler.running),
            "free": max(0, self._limits.concurrency - len(scheduler.running)),
            "rows": len(scheduler.holders),
            "kv_bytes": self._store.used,
            "kv_limit_bytes": self._store.limit,
            "prefixes": len(scheduler.holders.prefixes),
            "prefix_bytes": scheduler.holders.prefixes.bytes,
        }

    # from event loops

    def check_size(self, length: int) -> None:
        """Raises BadRequest for a choice whose keys and values could never fit."""
        if self._store.size(length) > self._store.limit:
            raise BadRequest(
                f"prompt and answer of {length} tokens are more than the engine has memory for",
                "max_tokens",
            )

    def submit(self, choices: Sequence[Choice]) -> None:
        """Queue the choices of one request. Raises Overloaded, Unavailable."""
        self._check_alive()
        queue = self.scheduler.queue
        queue.drop(lambda choice: choice.closed)
        if queue.full(choices[0].key, self._limits.queue):
            wait = self.scheduler.seconds * len(queue) / self._limits.concurrency
            raise Overloaded("too many requests are waiting", min(60.0, max(1.0, wait)))
        for choice in choices:
            queue.put(choice.key, choice)
        self._work.set()

    @contextmanager
    def judging(self) -> Iterator[None]:
        """While a text is judged that no choice writes. Raises Overloaded, if too many are."""
        if self._judging >= self._limits.judges:
            raise Overloaded("too many texts are being judged", 1.0)
        self._judging += 1
        try:
            yield
        finally:
            self._judging -= 1

    async def score(
        self, choice: Choice, suffix: Sequence[int], labels: Mapping[str, int], at: int
    ) -> Mapping[str, float]:
        """With the next step. Raises Unavailable, BadRequest, EngineFailed."""
        score = Score(choice, suffix, labels, at, asyncio.get_running_loop().create_future())
        self._check_alive()
        self._jobs.append((lambda: self.scheduler.scores.add(score), score.answer))
        self._work.set()
        found: Mapping[str, float] = await score.answer
        return found

    async def rewind(self, choice: Choice, back: Rewind, restart: Callable[[], None]) -> None:
        """Before the next step. `restart` is called on this loop, before any delta that follows."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            self.scheduler.rewind(choice, back)
            self._handover.add(loop, restart)

        await self.call(work)

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine thread between two steps; raises what it raises.

        What is no RunnerError becomes EngineFailed. Raises Unavailable if the thread has ended.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._check_alive()

        def job() -> None:
            result, error = attempt(work)
            self._handover.answer(future, result, error)

        self._jobs.append((job, future))
        self._work.set()
        return await future

    def wake(self) -> None:
        """Something was closed."""
        self._work.set()

    def _check_alive(self) -> None:
        if self._stopping or self._ended or not self._thread.is_alive():
            raise Unavailable("the engine is not running")

    # the engine thread

    def _loop(self) -> None:
        try:
            while not self._stopping:
                self._work.wait()
                self._work.clear()
                self._do_jobs()
                self.scheduler.step()
                self._handover.flush()
                if self.scheduler.busy or self._jobs:
                    self._work.set()
        finally:
            self._ended = True
            self._abandon()

    def _do_jobs(self) -> None:
        while self._jobs:
            job, future = self._jobs[0]
            if not future.done():
                job()
            self._jobs.popleft()

    def _abandon(self) -> None:
        """The thread ends: nobody is left waiting."""
        error: RunnerError = Unavailable("the engine has stopped")
        self.scheduler.abandon(error)
        while self._jobs:
            self._handover.answer(self._jobs.popleft()[1], error=error)
        self._handover.flush()
