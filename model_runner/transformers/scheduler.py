"""One step of the engine at a time: who is admitted, what the model reads, what is made of it.

1. Choices that are closed give up their rows, as prefixes for what comes.
2. Waiting choices are admitted, keys in turn.
3. The flat batch is put together: a token for each choice that writes, what scores read, and
   pieces of prompts up to the pace.
4. One forward pass, one draw for all rows.
5. Deltas and answers go to the handover.

Keys and values are only ever a cache of a sequence's ids: a row can be dropped at any time (for
room, after a fault) and is computed anew. So nothing here has to be undone when a step fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from model_runner.errors import BadRequest, EngineFailed, RunnerError
from model_runner.transformers import prefix, sampling
from model_runner.transformers.batch import NoRoom, Segment, tree
from model_runner.transformers.choice import Choice, Score
from model_runner.transformers.model import Model
from model_runner.transformers.outlet import Handover
from model_runner.transformers.pace import Pace
from model_runner.transformers.prefix import PrefixCache
from model_runner.transformers.queue import FairQueue
from model_runner.transformers.sequence import Rewind

T = TypeVar("T")

logger = logging.getLogger(__name__)

AHEAD = 64  # tokens that a new row has room for behind its prompt


@dataclass(slots=True, eq=False)
class Work:
    """A segment, and who waits for its logits: a choice that writes, or scores."""

    segment: Segment
    choice: Choice
    scores: list[Score] = field(default_factory=list)


@dataclass(slots=True)
class Counts:
    """What the engine has done since it started."""

    steps: int = 0
    tokens_read: int = 0  # computed for prompts
    tokens_written: int = 0
    tokens_scored: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0  # not computed, since they were there
    preempted: int = 0
    faults: int = 0
    rebuilt: int = 0


class Scheduler:
    """Of the engine thread only, but for `queue`."""

    def __init__(self, model: Model, handover: Handover, *, concurrency: int, pace: Pace) -> None:
        self.queue: FairQueue[Choice] = FairQueue()
        self.running: list[Choice] = []
        self.scores: list[Score] = []
        self.counts = Counts()
        self.prefixes = PrefixCache(model.store)
        self.faults = 0  # steps that failed, one after another
        self.fatal: str | None = None
        self.seconds = 1.0  # that a choice takes, smoothed
        self._model = model
        self._store = model.store
        self._handover = handover
        self._concurrency = concurrency
        self._pace = pace
        self._full = False  # choices had to wait when the last step began
        # on CPU the thread's own time: other work on the machine says nothing of a step
        self._clock = time.thread_time if model.device.type == "cpu" else time.monotonic
        self._holders: dict[Choice, None] = {}  # choices with a row, the oldest first

    @property
    def busy(self) -> bool:
        return bool(self.running or self.scores or len(self.queue))

    @property
    def rows(self) -> int:
        """Choices that hold keys and values."""
        return len(self._holders)

    # the step

    def step(self) -> None:
        """One pass of the model, if there is something to do. Faults end with those they hit."""
        _, error = attempt(self._step)
        if error is not None:
            self._broken(error)

    def _step(self) -> None:
        self._sweep()
        self._admit()
        works = self._plan()
        if not works:
            return
        writing = [work for work in works if work.segment.keep and work.segment.count == 1]
        read = [work.segment for work in works if work not in writing]
        units = sum(self._pace.units(segment.count, segment.start) for segment in read)
        began = self._clock()
        self._run(works)
        self._pace.saw(self._clock() - began, writing=len(writing), units=units)
        self.counts.steps += 1

    def _sweep(self) -> None:
        for choice in [choice for choice in self._holders if choice.closed]:
            self.retire(choice)
        self.running = [choice for choice in self.running if not (choice.closed or choice.over)]

    def _admit(self) -> None:
        now = time.monotonic()
        while len(self.running) < self._concurrency and (choice := self.queue.take()):
            choice.queued = False
            if choice.closed:
                continue
            need = self._store.size(len(choice.sequence.ids) + AHEAD)
            free = self._store.limit - self._store.used + self.prefixes.bytes
            if self.running and need > free:
                self._wait(choice)
                break
            # one that came since the last step was not kept waiting
            choice.started = choice.started or (now if self._full else choice.arrived)
            self.running.append(choice)
        self._full = bool(len(self.queue))

    def _wait(self, choice: Choice) -> None:
        choice.queued = True
        self.queue.put_back(choice.key, choice)

    # what is read

    def _plan(self) -> list[Work]:
        works: list[Work] = []
        reading: list[Choice] = []
        for choice in list(self.running):
            began, error = attempt(partial(self._ready, choice))
            if error is not None:
                self.counts.faults += 1
                self._fail(choice, error)
            elif began:
                if choice.unread == 1:
                    self._add(works, choice, 1, writes=True)
                else:
                    reading.append(choice)
        writing = [work.choice for work in works]
        waiting = self._plan_scores(works)
        self._plan_reading(works, {c: len(c.sequence.ids) for c in reading} | waiting, writing)
        return works

    def _ready(self, choice: Choice) -> bool:
        """Whether there is something to compute for it. One that may write no more ends."""
        if choice.sequence.full:
            self._tell(choice, choice.sequence.finish("length"))
            return False
        return self._began(choice)

    def _plan_reading(
        self, works: list[Work], wanted: dict[Choice, int], writing: list[Choice]
    ) -> None:
        """Add pieces of prompts. wanted: up to where each is to be read.

        A prompt goes before another that came earlier if it is read sooner by more than that: half
        of those who wait see their first token earlier, and none waits long for those that follow.
        """
        read, spent = 0, 0.0

        def due(choice: Choice) -> float:
            units = self._pace.units(wanted[choice] - choice.read, choice.read)
            return choice.arrived + self._pace.seconds(units)

        for choice in sorted(wanted, key=due):
            upto = wanted[choice]
            # a row may have gone meanwhile, to make room for another
            if upto <= choice.read or not self._began(choice):
                continue
            take = self._pace.tokens(
                upto - choice.read,
                choice.read,
                read=read,
                spent=spent,
                writing=sum(choice.after(other) for other in writing),
                waiting=len(wanted),
            )
            if not take:
                continue
            writes = choice in self.running and choice.read + take == len(choice.sequence.ids)
            took = self._add(works, choice, take, writes=writes)
            spent += self._pace.units(took, choice.read)
            read += took

    def _began(self, choice: Choice) -> bool:
        """Give it a row if it has none; whether there is something to compute now."""
        if choice.row is None and not self._begin(choice):
            return False
        if choice.row is not None and choice.read >= len(choice.sequence.ids):
            choice.row.length = len(choice.sequence.ids) - 1
        return choice.row is not None

    def _begin(self, choice: Choice) -> bool:
        """Begin with the longest prefix there is; False to wait for one that is being computed."""
        ids = prefix.array(choice.sequence.ids[:-1])
        row, length = self.prefixes.find(choice.owner, ids) or (None, prefix.SHORTEST - 1)
        asked = {score.choice for score in self.scores}
        coming = 0
        for other in self._holders:
            if other is choice or other.row is None or other.owner != choice.owner:
                continue
            shared = prefix.common(other.sequence.head, ids)
            if min(shared, other.read) > length:
                row, length = other.row, min(shared, other.read)
            if shared > other.read and (other in self.running or other in asked):
                coming = max(coming, shared)
        if coming >= length + prefix.SHORTEST:
            return False
        room = len(choice.sequence.ids) + AHEAD
        if row is None:
            choice.row = self._store.row()
        else:
            try:
                choice.row = self._store.copy(row, length, room)
            except NoRoom:
                choice.row = self._store.row()
            else:
                self.counts.prefix_hits += 1
                self.counts.prefix_tokens += length
        self._holders[choice] = None
        return True

    def _add(self, works: list[Work], choice: Choice, count: int, *, writes: bool) -> int:
        """Let it read `count` more of its ids; how many it will."""
        busy = {work.choice for work in works}
        # room for all of it at once: to make it larger is to copy it
        if not self._make_room(choice, max(choice.read + count, len(choice.sequence.ids)), busy):
            if not busy:
                self._fail(choice, EngineFailed("the engine has not enough memory for this"))
            return 0
        assert choice.row is not None  # noqa: S101
        start = choice.read
        ids = choice.sequence.ids[start : start + count]
        outputs = (count - 1,) if writes else ()
        works.append(Work(Segment(choice.row, ids, start, outputs=outputs), choice))
        return count

    def _make_room(self, choice: Choice, length: int, busy: set[Choice]) -> bool:
        """Room for `length` tokens: that of prefixes, of choices that are over, of younger ones."""
        assert choice.row is not None  # noqa: S101
        while True:
            try:
                self._store.reserve(choice.row, length)
            except NoRoom:
                if not (self.prefixes.evict() or self._displace(choice, busy)):
                    return False
            else:
                return True

    def _displace(self, choice: Choice, busy: set[Choice]) -> bool:
        others = [c for c in reversed(self._holders) if c is not choice and c not in busy]
        for other in sorted(others, key=lambda c: not c.over):
            older = other in self.running and choice in self.running
            if older and self.running.index(other) < self.running.index(choice):
                continue
            self._drop(other)
            if other in self.running:
                self.counts.preempted += 1
                self.running.remove(other)
                self._wait(other)
            return True
        return False

    def _plan_scores(self, works: list[Work]) -> dict[Choice, int]:
        """Add those that can run; the others' choices, with how much of them must be read first."""
        waiting: dict[Choice, int] = {}
        groups: dict[tuple[Choice, int], list[tuple[Score, list[int]]]] = {}
        left: list[Score] = []
        for score in self.scores:
            choice = score.choice
            found, error = attempt(partial(_aside, score))
            if error is not None or found is None:
                self._answer(score, error=error)
                continue
            position, ids = found
            if choice.row is not None and choice.read >= position:
                groups.setdefault((choice, position), []).append((score, ids))
            else:
                left.append(score)
                if choice not in self.running:
                    waiting[choice] = max(position, waiting.get(choice, 0))
        self.scores = left
        together = list(groups.items())
        if not self._store.trees:
            together = [(where, [one]) for where, those in together for one in those]
        for (choice, position), those in together:
            assert choice.row is not None  # noqa: S101
            ids, offsets, sees, ends = tree([ids for _, ids in those])
            places = offsets if sees is not None else None
            segment = Segment(choice.row, ids, position, False, tuple(ends), places, sees)
            works.append(Work(segment, choice, [score for score, _ in those]))
        return waiting

    # what is made of it

    def _run(self, works: list[Work]) -> None:
        """All together; if that fails, one by one, so that only who is at fault fails."""
        try:
            logits = self._forward([work.segment for work in works])
            bad = logits.isnan().any(dim=-1).tolist()
            drawn = self._draw(works, logits, bad)
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the engine
            self._faulty(works, error)
            return
        self.faults = 0
        at = 0
        for work in works:
            outputs = len(work.segment.outputs)
            if any(bad[at : at + outputs]):
                self._fail_work(work, EngineFailed("the model's logits are not numbers"))
            elif work.scores:
                self.counts.tokens_scored += work.segment.count
                self._answer_all(work, logits[at : at + outputs])
            elif outputs:
                self._write(work.choice, *drawn[at], self._probed(at))
            at += outputs
            if work.segment.keep and work.segment.count > 1:
                self.counts.tokens_read += work.segment.count

    def _forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """What a score reads besides needs room of its own in some stores: that of prefixes."""
        while True:
            try:
                return self._model.forward(segments)
            except NoRoom:
                if not self.prefixes.evict():
                    raise

    def _draw(
        self, works: list[Work], logits: torch.Tensor, bad: list[bool]
    ) -> dict[int, tuple[int, Any]]:
        """By index of the output: the token, and what is to be told of its probability."""
        at = 0
        rows: dict[int, Choice] = {}
        for work in works:
            if work.segment.outputs and not work.scores and not bad[at]:
                rows[at] = work.choice
            at += len(work.segment.outputs)
        if not rows:
            return {}
        mine = logits if len(rows) == len(logits) else logits[list(rows)]
        tokens = sampling.choose(mine, [choice.sequence.draw() for choice in rows.values()])
        told: dict[int, Any] = {}
        asked = [
            (i, at, choice.sequence.spec.sampling.logprobs)
            for i, (at, choice) in enumerate(rows.items())
        ]
        asked_ = [(i, at, top) for i, at, top in asked if top is not None]
        if asked_:
            some = [i for i, _, _ in asked_]
            found = sampling.logprobs(
                mine[some], [tokens[i] for i in some], [top for _, _, top in asked_]
            )
            told = {at: one for (_, at, _), one in zip(asked_, found, strict=True)}
        return {at: (token, told.get(at)) for at, token in zip(rows, tokens, strict=True)}

    def _probed(self, output: int) -> dict[str, float] | None:
        return None if self._model.probes is None else self._model.probes.of(output)

    def _write(
        self, choice: Choice, token: int, told: Any, probed: dict[str, float] | None
    ) -> None:
        if choice.closed:
            return
        self.counts.tokens_written += 1
        choice.wrote = choice.wrote or time.monotonic()
        end = token in self._model.eos
        delta, error = attempt(lambda: choice.sequence.write(token, told, end=end, probed=probed))
        if error is not None:
            self._fail(choice, error)
        elif delta is not None:
            self._tell(choice, delta)

    def _tell(self, choice: Choice, delta: Any) -> None:
        self._handover.add(choice.outlet.loop, choice.outlet.put, delta)
        if choice.over:
            self.running.remove(choice)
            self.seconds += 0.2 * (time.monotonic() - choice.started - self.seconds)

    def _answer_all(self, work: Work, logits: torch.Tensor) -> None:
        probabilities = torch.softmax(logits, dim=-1)
        for score, row in zip(work.scores, probabilities, strict=True):
            found = row[torch.tensor(list(score.labels.values()), device=row.device)].tolist()
            self._answer(score, dict(zip(score.labels, found, strict=True)))

    def _answer(self, score: Score, value: Any = None, error: RunnerError | None = None) -> None:
        answer(self._handover, score.answer, value, error)

    # faults

    def _faulty(self, works: list[Work], error: Exception) -> None:
        if len(works) > 1 and not self.fatal:
            for work in works:
                self._run([work])
            return
        self.faults += 1
        self.counts.faults += 1
        failure = failed(error)
        if isinstance(error, getattr(torch, "AcceleratorError", ())):
            self.fatal = "the device has failed"
        for work in works:
            self._fail_work(work, failure)
        self.prefixes.clear()
        self.counts.rebuilt += 1

    def _broken(self, error: RunnerError) -> None:
        """A step failed outside the model's pass: whom it would have served fails, others go on."""
        self.faults += 1
        self.counts.faults += 1
        for score in self.scores:
            self._answer(score, error=error)
        self.scores = []
        for choice in list(self.running):
            self._fail(choice, error)
        for choice in list(self._holders):
            choice.failed = True
            self._drop(choice)
        self.prefixes.clear()
        self.counts.rebuilt += 1

    def _fail_work(self, work: Work, error: RunnerError) -> None:
        for score in work.scores:
            self._answer(score, error=error)
        if not work.scores:
            self._fail(work.choice, error)

    def _fail(self, choice: Choice, error: RunnerError) -> None:
        choice.failed = True
        self._drop(choice)
        if choice in self.running:
            self.running.remove(choice)
        self._handover.add(choice.outlet.loop, choice.outlet.put, error)

    # coming and going

    def rewind(self, choice: Choice, back: Rewind) -> None:
        """See `Generation.rewind`; a choice that was over goes on. Raises BadRequest."""
        if choice.failed:
            raise EngineFailed("the engine failed on this request")
        kept = choice.sequence.rewind(back)
        if choice.row is not None:
            choice.row.length = min(choice.row.length, kept)
        if choice not in self.running and not choice.queued:
            self.running.append(choice)

    def retire(self, choice: Choice) -> None:
        """A choice is closed: keep its row as a prefix."""
        self._holders.pop(choice, None)
        row, choice.row = choice.row, None
        if row is None:
            return
        ids = choice.sequence.ids[: row.length]
        _, error = attempt(partial(self.prefixes.keep, choice.owner, ids, row))
        if error is not None:  # it is over anyway: only its room must not be lost
            self.counts.faults += 1
            self._store.free(row)

    def _drop(self, choice: Choice) -> None:
        self._holders.pop(choice, None)
        if choice.row is not None:
            self._store.free(choice.row)
            choice.row = None

    def abandon(self, error: RunnerError) -> None:
        """Nobody is left waiting."""
        for choice in [*self.running, *self.queue.clear()]:
            self._handover.add(choice.outlet.loop, choice.outlet.put, error)
        for score in self.scores:
            self._answer(score, error=error)
        self.running, self.scores = [], []


def _aside(score: Score) -> tuple[int, list[int]]:
    if score.choice.closed:
        raise BadRequest("the generation is closed")
    if score.choice.failed:
        raise EngineFailed("the engine failed on this request")
    return score.choice.sequence.aside(score.at, score.suffix)


def answer(
    handover: Handover, future: asyncio.Future[Any], value: Any, error: RunnerError | None
) -> None:
    """Settle a future of some event loop with the next flush."""

    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    handover.add(future.get_loop(), settle)


def attempt(work: Callable[[], T]) -> tuple[T | None, RunnerError | None]:
    """The result or the error. The boundary behind which no fault of a model or library passes."""
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
