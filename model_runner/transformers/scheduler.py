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

import time
from collections.abc import Sequence
from functools import partial

import torch

from model_runner.errors import EngineFailed, RunnerError
from model_runner.transformers import sampling
from model_runner.transformers.batch import NoRoom, Segment
from model_runner.transformers.choice import Choice, Work, yielding
from model_runner.transformers.counts import Counts
from model_runner.transformers.fence import attempt, failed
from model_runner.transformers.holders import Holders
from model_runner.transformers.model import Model
from model_runner.transformers.outlet import Handover
from model_runner.transformers.pace import Pace
from model_runner.transformers.queue import FairQueue
from model_runner.transformers.scores import Scores
from model_runner.transformers.sequence import Rewind
from model_runner.types import Delta


class Scheduler:
    """Of the engine thread only, but for `queue`."""

    def __init__(self, model: Model, handover: Handover, *, concurrency: int, pace: Pace) -> None:
        self.queue: FairQueue[Choice] = FairQueue()
        self.running: list[Choice] = []  # changed in place only: `holders` reads it too
        self.scores = Scores(handover, trees=model.store.trees)
        self.counts = Counts()
        self.holders = Holders(model.store, self.counts, self.running, self._displaced)
        self.faults = 0  # steps that failed, one after another
        self.fatal: str | None = None
        self.seconds = 1.0  # that a choice takes, smoothed
        self._model = model
        self._handover = handover
        self._concurrency = concurrency
        self._pace = pace
        self._full = False  # choices had to wait when the last step began
        # on CPU the thread's own time: other work on the machine says nothing of a step
        self._clock = time.thread_time if model.device.type == "cpu" else time.monotonic

    @property
    def busy(self) -> bool:
        return bool(self.running or len(self.scores) or len(self.queue))

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
        for choice in self.holders:
            if choice.closed:
                self.holders.retire(choice)
        self.running[:] = [c for c in self.running if not (c.closed or c.over)]

    def _admit(self) -> None:
        """As many as may run; then one of another key may have the place of one not yet read."""
        now = time.monotonic()
        while self._has_room and (choice := self.queue.take(self._may_run)):
            choice.queued = False
            if choice.closed:
                continue
            if self.running and not self.holders.fits(choice):
                self._wait(choice)
                break
            if self._crowded and (other := yielding(self.running, choice.key)):
                self.running.remove(other)
                self.holders.drop(other)
                other.started = 0.0
                self._wait(other, turn=False)
            # one that came since the last step was not kept waiting
            choice.started = choice.started or (now if self._full else choice.arrived)
            self.running.append(choice)
        self._full = bool(len(self.queue))

    @property
    def _crowded(self) -> bool:
        return len(self.running) >= self._concurrency

    @property
    def _has_room(self) -> bool:
        """Whether any key may run: asked before each of them is, of whom there may be hundreds."""
        return not self._crowded or any(not choice.begun for choice in self.running)

    def _may_run(self, key: str) -> bool:
        return not self._crowded or yielding(self.running, key) is not None

    def _wait(self, choice: Choice, *, turn: bool = True) -> None:
        choice.queued = True
        self.queue.put_back(choice.key, choice, turn=turn)

    def _displaced(self, choice: Choice) -> None:
        """It has lost its row to an earlier one, or to one that is only read."""
        self.counts.preempted += 1
        self.running.remove(choice)
        self._wait(choice)

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
        scoring, unread = self.scores.plan(self.running)
        works += scoring
        self._plan_reading(works, {c: len(c.sequence.ids) for c in reading} | unread, writing)
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
        """Add pieces of prompts. wanted: up to where each is to be read."""
        read, spent = 0, 0.0
        for choice in self._in_turn(wanted):
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

    def _in_turn(self, wanted: dict[Choice, int]) -> list[Choice]:
        """Of each key the next, before others of those keys.

        A prompt goes before another that came earlier if it is read sooner by more than that: half
        of those who wait see their first token earlier, and none waits long for those that follow.
        Of another key's, it waits for one at most: those behind that come when it is read.
        """
        now = time.monotonic()

        def takes(choice: Choice) -> float:
            units = self._pace.units(wanted[choice] - choice.read, choice.read)
            return self._pace.seconds(units)

        ordered = sorted(wanted, key=lambda choice: choice.arrived + takes(choice))
        first: dict[str, Choice] = {}
        for choice in ordered:
            if first.setdefault(choice.key, choice) is not choice:
                choice.turn = now
        turns = sorted(first.values(), key=lambda choice: choice.turn + takes(choice))
        return turns + [choice for choice in ordered if first[choice.key] is not choice]

    def _began(self, choice: Choice) -> bool:
        """Give it a row if it has none; whether there is something to compute now."""
        if choice.row is None and not self.holders.begin(choice, self.scores.asked):
            return False
        if choice.row is not None and choice.read >= len(choice.sequence.ids):
            choice.row.length = len(choice.sequence.ids) - 1
        return choice.row is not None

    def _add(self, works: list[Work], choice: Choice, count: int, *, writes: bool) -> int:
        """Let it read `count` more of its ids; how many it will."""
        busy = {work.choice for work in works}
        # room for all of it at once: to make it larger is to copy it
        room = max(choice.read + count, len(choice.sequence.ids))
        if not self.holders.make_room(choice, room, busy):
            if not (busy or self.holders.before(choice)):
                self._fail(choice, EngineFailed("the engine has not enough memory for this"))
            return 0
        assert choice.row is not None  # noqa: S101
        start = choice.read
        ids = choice.sequence.ids[start : start + count]
        outputs = (count - 1,) if writes else ()
        works.append(Work(Segment(choice.row, ids, start, outputs=outputs), choice))
        return count

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
                self.scores.answer(work, logits[at : at + outputs])
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
                if not self.holders.prefixes.evict():
                    raise

    def _draw(
        self, works: list[Work], logits: torch.Tensor, bad: list[bool]
    ) -> dict[int, tuple[int, sampling.Logprob | None]]:
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
        draws = [choice.sequence.draw() for choice in rows.values()]
        tokens = sampling.choose(mine, draws)
        told = sampling.told(mine, draws, tokens)
        return dict(zip(rows, zip(tokens, told, strict=True), strict=True))

    def _probed(self, output: int) -> dict[str, float] | None:
        return None if self._model.probes is None else self._model.probes.of(output)

    def _write(
        self,
        choice: Choice,
        token: int,
        told: sampling.Logprob | None,
        probed: dict[str, float] | None,
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

    def _tell(self, choice: Choice, delta: Delta) -> None:
        self._handover.add(choice.outlet.loop, choice.outlet.put, delta)
        if choice.over:
            self.running.remove(choice)
            self.seconds += 0.2 * (time.monotonic() - choice.started - self.seconds)

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
        self.holders.prefixes.clear()
        self.counts.rebuilt += 1

    def _broken(self, error: RunnerError) -> None:
        """A step failed outside the model's pass: whom it would have served fails, others go on."""
        self.faults += 1
        self.counts.faults += 1
        self.scores.fail_all(error)
        for choice in list(self.running):
            self._fail(choice, error)
        for choice in self.holders:
            choice.failed = True
            self.holders.drop(choice)
        self.holders.prefixes.clear()
        self.counts.rebuilt += 1

    def _fail_work(self, work: Work, error: RunnerError) -> None:
        if work.scores:
            self.scores.fail(work.scores, error)
        else:
            self._fail(work.choice, error)

    def _fail(self, choice: Choice, error: RunnerError) -> None:
        choice.failed = True
        self.holders.drop(choice)
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

    def abandon(self, error: RunnerError) -> None:
        """Nobody is left waiting."""
        for choice in [*self.running, *self.queue.clear()]:
            self._handover.add(choice.outlet.loop, choice.outlet.put, error)
        self.running.clear()
        self.scores.fail_all(error)
