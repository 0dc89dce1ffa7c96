"""Micro-batching: windows of all streams, scored together on one thread of their own.

The thread takes what waits, up to a batch, as soon as it is free; it lingers for company only while
that is short. Requests take turns: each puts one text into a batch, then each another. Nothing
waits for a full batch, and while one is computed the next one gathers (as "adaptive batching" in
serving: Crankshaw et al. 2017, Clipper, section 4.3).
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import Generic, Protocol, TypeVar

from filters.errors import FilterFailed, FilterOverloaded
from filters.parties import PARTY, Party
from filters.types import Found

Scores = Mapping[str, float]
Row = TypeVar("Row")

#: Scores are rounded to multiples of this, a power of two, so that multiples are exact.
GRID = 2.0**-12


class TextModel(Protocol):
    """Scores texts, blocking the thread that calls. `categories`: as of a `Scorer`.

    The company of other texts may change the last digits of a score.
    """

    @property
    def categories(self) -> Sequence[str]: ...

    def compute(self, texts: Sequence[str]) -> Sequence[Scores]: ...


class SpanModel(Protocol):
    """Finds spans in texts, blocking the thread that calls; a pure function of each text."""

    @property
    def categories(self) -> frozenset[str]: ...

    def compute(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]: ...


class Observer(Protocol):
    """Told what a batcher does; called from any thread."""

    def queued(self, depth: int) -> None:
        """How many texts wait now."""

    def batch(self, size: int, waited: float, seconds: float) -> None:
        """A batch is done. waited: seconds of its oldest text in the queue; seconds: of scoring."""

    def shed(self, texts: int) -> None:
        """So many texts were refused, because too many waited."""


class Silent:
    """An observer that does nothing."""

    def queued(self, depth: int) -> None: ...
    def batch(self, size: int, waited: float, seconds: float) -> None: ...
    def shed(self, texts: int) -> None: ...


@dataclass(eq=False, slots=True)
class _Job(Generic[Row]):
    """A text that waits, and who for."""

    text: str
    future: asyncio.Future[Row]
    loop: asyncio.AbstractEventLoop
    since: float
    dropped: bool = False


class Worker(Generic[Row]):
    """Computes rows of texts on a thread of its own, many at a time.

    compute: blocks; a row for each text. settle: a row as it is handed out, or None to compute its
        text again alone; called with whether it was.
    size: texts of a batch at most. characters: of a batch at most, but for its first text.
    linger: seconds that the oldest waits for company at most.
    queue: texts that may wait; more are refused with FilterOverloaded, and the policy's `on_error`
        decides. See `Party` for how many one request has there, however long its texts.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[str]], Sequence[Row]],
        settle: Callable[[Row, bool], Row | None],
        *,
        size: int = 32,
        characters: int | None = None,
        linger: float = 0.002,
        queue: int = 1024,
        observer: Observer | None = None,
        name: str = "classifier",
    ) -> None:
        self._compute = compute
        self._settle = settle
        self._size = size
        self._characters = characters or sys.maxsize
        self._linger = linger
        self._most = queue
        self._observer = observer or Silent()
        self._name = name
        # Those that wait, by whose they are; whose turn is next stands first.
        self._jobs: OrderedDict[Party, deque[_Job[Row]]] = OrderedDict()
        self._depth = 0
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False

    async def rows(self, texts: Sequence[str]) -> list[Row]:
        """The row of each text. Raises FilterOverloaded, FilterFailed, or what `compute` raises."""
        party = PARTY.get() or Party()
        rows: list[Row] = []
        with party.call() as share:
            while len(rows) < len(texts):
                some = texts[len(rows) : len(rows) + min(self._size, share())]
                async with party.room(len(some)):
                    rows += await self._some(party, some)
        return rows

    def close(self) -> None:
        """End the thread; what waits fails. Safe again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    async def _some(self, party: Party, texts: Sequence[str]) -> list[Row]:
        loop, now = asyncio.get_running_loop(), monotonic()
        jobs: list[_Job[Row]] = [_Job(text, loop.create_future(), loop, now) for text in texts]
        with self._changed:
            if self._closed:
                raise FilterFailed(f"{self._name}: closed")
            if self._depth + len(jobs) > max(self._most, self._size):
                self._observer.shed(len(jobs))
                raise FilterOverloaded(f"{self._name}: {self._depth} texts wait already")
            self._jobs.setdefault(party, deque()).extend(jobs)
            self._depth += len(jobs)
            self._observer.queued(self._depth)
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            return list(await asyncio.gather(*(job.future for job in jobs)))
        finally:
            for job in jobs:
                job.dropped = True  # nobody waits any more: not scored, if it still waits

    def _run(self) -> None:
        while jobs := self._take():
            began = monotonic()
            waited = began - min(job.since for job in jobs)
            results = self._scored([job.text for job in jobs])
            self._observer.batch(len(jobs), waited, monotonic() - began)
            _hand_over(jobs, results)

    def _take(self) -> list[_Job[Row]]:
        """The next batch, each party's oldest first; empty when closed."""
        with self._changed:
            while True:
                self._forget_dropped()
                if self._closed:
                    left = [job for jobs in self._jobs.values() for job in jobs]
                    closed = FilterFailed(f"{self._name}: closed")
                    _hand_over(left, [closed] * len(left))
                    self._jobs.clear()
                    self._depth = 0
                    return []
                if not self._jobs:
                    self._observer.queued(0)
                    self._changed.wait()
                    continue
                oldest = min(jobs[0].since for jobs in self._jobs.values())
                left_to_linger = oldest + self._linger - monotonic()
                if self._depth >= self._size or left_to_linger <= 0:
                    break
                self._changed.wait(left_to_linger)
            taken: list[_Job[Row]] = []
            room = self._characters
            while self._jobs and len(taken) < self._size:
                party, jobs = next(iter(self._jobs.items()))
                room -= len(jobs[0].text)
                if taken and room < 0:
                    break
                taken.append(jobs.popleft())
                if jobs:
                    self._jobs.move_to_end(party)  # behind all others
                else:
                    del self._jobs[party]
            self._depth -= len(taken)
            self._observer.queued(self._depth)
            return taken

    def _forget_dropped(self) -> None:
        for party, jobs in list(self._jobs.items()):
            kept = deque(job for job in jobs if not job.dropped)
            self._depth -= len(jobs) - len(kept)
            if kept:
                self._jobs[party] = kept
            else:
                del self._jobs[party]

    def _computed(self, texts: Sequence[str]) -> Sequence[Row]:
        rows = self._compute(texts)
        if len(rows) != len(texts):
            raise FilterFailed(f"{self._name}: {len(rows)} answers for {len(texts)} texts")
        return rows

    def _scored(self, texts: Sequence[str]) -> list[Row | Exception]:
        """The row of each text, or what went wrong with it."""
        alone = len(texts) == 1
        try:
            rows = self._computed(texts)
            settled = [self._settle(row, alone) for row in rows]
        except Exception as error:  # noqa: BLE001  (handed to those who wait)
            # One text's fault must not be another stream's.
            return [error] if alone else [r for text in texts for r in self._scored([text])]
        results: list[Row | Exception] = []
        for text, row in zip(texts, settled, strict=True):
            results += self._scored([text]) if row is None else [row]
        return results


class Batcher:
    """A `Scorer` of a model that blocks; options as of `Worker`.

    characters: a batch's at most. Where company saves nothing, as on a CPU, a short batch is soon
        done, and who comes next waits for less.
    noise: by how much company may change a score. Scores are rounded to multiples of GRID; where
        the noise could tip one over to the next multiple, the text is scored again alone. So a
        score is a function of its text alone, to the last digit.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        noise: float = 5e-7,
        size: int = 32,
        characters: int | None = None,
        linger: float = 0.002,
        queue: int = 1024,
        observer: Observer | None = None,
        name: str = "classifier",
    ) -> None:
        def settle(row: Scores, alone: bool) -> Scores | None:
            return None if not alone and _on_edge(row, noise) else _rounded(row)

        self.model = model
        self._worker: Worker[Scores] = Worker(
            model.compute,
            settle,
            size=size,
            characters=characters,
            linger=linger,
            queue=queue,
            observer=observer,
            name=name,
        )

    @property
    def categories(self) -> Sequence[str]:
        return tuple(self.model.categories)

    def load(self) -> None:
        """Load a model that would else be loaded when the first text comes. Blocks."""
        if (load := getattr(self.model, "load", None)) is not None:
            load()

    async def score(self, texts: Sequence[str]) -> Sequence[Scores]:
        return await self._worker.rows(texts)

    def close(self) -> None:
        """Ends the thread, and what the model has open."""
        self._worker.close()
        if (close := getattr(self.model, "close", None)) is not None:
            close()


class BatchedFinder:
    """A `SpanFinder` of a model that blocks; options as of `Worker`."""

    def __init__(
        self,
        model: SpanModel,
        *,
        size: int = 32,
        linger: float = 0.0,
        queue: int = 1024,
        observer: Observer | None = None,
        name: str = "detector",
    ) -> None:
        def settle(row: Sequence[Found], alone: bool) -> Sequence[Found]:  # noqa: ARG001
            return row

        self._model = model
        self._worker: Worker[Sequence[Found]] = Worker(
            model.compute,
            settle,
            size=size,
            linger=linger,
            queue=queue,
            observer=observer,
            name=name,
        )

    @property
    def categories(self) -> frozenset[str]:
        return self._model.categories

    async def find(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]:
        return await self._worker.rows(texts)

    def close(self) -> None:
        self._worker.close()


def _on_edge(row: Scores, noise: float) -> bool:
    """Whether a score is so near to the middle of two multiples that noise could decide."""
    return any(abs((score / GRID) % 1.0 - 0.5) * GRID <= noise for score in row.values())


def _rounded(row: Scores) -> Scores:
    """Nonsense stays as it is, for the chain to refuse."""
    return {
        category: round(score / GRID) * GRID if 0.0 <= score <= 1.0 else score
        for category, score in row.items()
    }


def _hand_over(jobs: Sequence[_Job[Row]], results: Sequence[Row | Exception]) -> None:
    """Give results to the loops that wait for them, with one call to each."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[_Job[Row], Row | Exception]]] = {}
    for job, result in zip(jobs, results, strict=True):
        loops.setdefault(job.loop, []).append((job, result))
    for loop, pairs in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, pairs)
        except RuntimeError:  # the loop is closed: nobody waits
            continue


def _resolve(pairs: Sequence[tuple[_Job[Row], Row | Exception]]) -> None:
    for job, result in pairs:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
