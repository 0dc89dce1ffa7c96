"""The stream screen: what every prompt and every answer passes, whole or as it is written.

One screen per choice and channel. A whole text is one push with `final=True`. Where a push says
`rewind`, the engine goes back to where the releases end, `StreamScreen.rewind` reads what is out
again, and the pushes go on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from filters.types import Context, Finding, Piece, Span
from policies.chain import ChainScan, Link
from policies.compose import Composer
from policies.errors import ScreenClosed
from policies.past import Past
from policies.plan import StagePlan
from policies.rules import Rules
from policies.types import Action, Fault, Hit, Step, Verdict, highest

Report = Callable[[Verdict], None]


class Budget:
    """Characters that all screens of a process may hold together."""

    def __init__(self, characters: int = 64 * 1024 * 1024) -> None:
        self.left = characters

    def take(self, characters: int) -> bool:
        """Take from the budget, or give back if negative. False if there is not enough."""
        if characters > self.left:
            return False
        self.left -= characters
        return True


class StreamScreen:
    """Screens one text. Has no clock, no HTTP and no I/O of its own.

    context.preceding: fed to the filters ahead of the text; offsets in releases and verdicts count
    from the text itself.
    report: in monitor mode, called with what the verdict would have been, whenever that is known.
    failed: the text ended for a filter's fault, which says nothing of the text.
    """

    def __init__(
        self,
        plan: StagePlan,
        context: Context,
        *,
        budget: Budget | None = None,
        report: Report | None = None,
    ) -> None:
        self._plan = plan
        self._context = context
        self._preceding = context.preceding
        self._composer = Composer(plan.rules, context.preceding)
        self._chain = ChainScan(plan.acting, context)
        self._past = Past(plan.rules)
        self._budget = budget or Budget()
        self._taken = 0
        self._watch = _Watch(plan, plan.watching, plan.watch_rules, context, report)
        self._signal = _Watch(plan, plan.signalling, plan.signal_rules, context)
        self._pending = ""  # original text that is not out, for those that watch
        self._done = False
        self._faults: list[Fault] = []  # of no filter
        self.failed = False

    @property
    def held(self) -> int:
        """Characters that have come and not left."""
        return self._composer.held

    async def push(self, piece: Piece, *, final: bool = False) -> Step:
        """Take the next piece of text. Raises ScreenClosed after a final piece or a stop."""
        if self._done or self._past.waits:
            raise ScreenClosed("the screen has seen its last piece")
        if self._preceding:
            first, self._preceding = self._preceding, ""
            await self._feed(Piece(first), final=False)
        self._composer.grow(piece.text)
        if not self._budget.take(len(piece.text)):
            self._faults.append(Fault("hold", "too much text is held", "block"))
            return self._refuse(self._faults[-1])
        self._taken += len(piece.text)
        settled = await self._feed(piece, final=final)
        for fault in (*self._chain.faults, *self._signal.faults):
            if fault.blocks:
                return self._refuse(fault)
        release = self._past.moved(self._composer.advance(settled, final=final))
        self._account()
        revised = self._composer.revision is not None and not self._signal.blocked
        self._done = (final and not revised) or self._composer.blocked or self._signal.blocked
        self._show(piece.text, release.end - release.start)
        if self._done:
            await self._signal.verdict()  # so that a late block still ends the text
            for fault in self._signal.faults:
                if fault.blocks:
                    self._composer.refuse(_error(fault), "on_error")
                    self.failed = True
        blocked = self._composer.ended or self._signal.blocked
        signals, checked = self._signal.take(), self._signal.checked
        if revised:
            revision = self._past.revise(self._composer)
            return Step(release, "rewind", signals, checked, revision)
        return Step(release, "stop" if blocked else "continue", signals, checked)

    async def rewind(self) -> None:
        """Go on behind what is out, after a push that said `rewind`; all else of the text is gone.

        Filters that act read what is out again, so that what begins there and reaches new text is
        found; those that text does not wait for go on where they are.
        """
        await self._chain.aclose()
        rules = self._past.go_on(self._composer, self._chain)
        context = self._past.context(self._context)
        self._preceding, self._pending = context.preceding, ""
        self._composer = Composer(rules, context.preceding)
        self._chain = ChainScan(self._plan.acting, context)

    def give_up(self) -> None:
        """The text cannot be written anew: a revise that is asked for is a block.

        Before the first push: rules that revise do what they do when their tries are used up.
        """
        if self._past.waits:
            self._past.refuse(self._composer)
            self._done = True
            self._show("", 0)
        else:
            self._composer = Composer(self._plan.rules.given_up(), self._context.preceding)

    async def verdict(self) -> Verdict:
        """The verdict, once the text is done. In monitor mode it waits for nobody and allows."""
        hits, scores, faults, timings = self._past.told(self._composer, self._chain)
        for lane in (self._signal, self._watch) if self._plan.mode == "enforce" else ():
            seen = await lane.verdict()
            hits += seen.hits
            faults += seen.faults
            timings |= seen.timings
            scores = highest(scores, seen.scores)
        faults += self._faults
        text = self._past.text + self._composer.text
        verdict = _verdict(self._plan, text, hits, scores, faults, timings)
        gave_up = self._past.gave_up(self._composer)
        return replace(verdict, rewinds=self._past.rewinds, gave_up=gave_up)

    async def aclose(self) -> None:
        """Let go of everything. Safe at any time, and again."""
        self._done = True
        self._budget.take(-self._taken)
        self._taken = 0
        self._watch.end()
        self._signal.end()
        await self._chain.aclose()

    async def _feed(self, piece: Piece, *, final: bool) -> int:
        progress = await self._chain.feed(piece, final=final)
        for finding in progress.findings:
            self._composer.add(finding)
        return progress.settled

    def _refuse(self, fault: Fault) -> Step:
        """Block at the first character that is not out."""
        release = self._past.moved(self._composer.refuse(_error(fault), "on_error"))
        self._account()
        self._done = self.failed = True
        self._show("", 0)
        return Step(release, "stop")

    def _account(self) -> None:
        self._budget.take(self._composer.held - self._taken)
        self._taken = self._composer.held

    def _show(self, text: str, out: int) -> None:
        """Show what was released to those that watch, in its original form."""
        self._pending += text
        shown, self._pending = self._pending[:out], self._pending[out:]
        self._past.show(shown)
        for lane in (self._watch, self._signal):
            lane.feed(shown)
            if self._done:
                lane.end()


async def whole(
    plan: StagePlan, context: Context, text: str, *, budget: Budget | None = None
) -> Verdict:
    """The verdict on one whole text."""
    screen = StreamScreen(plan, context, budget=budget)
    try:
        await screen.push(Piece(text), final=True)
        return await screen.verdict()
    finally:
        await screen.aclose()


class _Watch:
    """Filters that text does not wait for, in a task of their own."""

    def __init__(
        self,
        plan: StagePlan,
        links: Sequence[Link],
        rules: Rules,
        context: Context,
        report: Report | None = None,
    ) -> None:
        self.checked = 0
        self._plan = plan
        self._idle = not links  # nobody watches
        self._chain = ChainScan(links, context)
        self._composer = Composer(rules, context.preceding)
        self._report = report
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._ended = False
        self._preceding = context.preceding
        self._task: asyncio.Task[Verdict] | None = None
        self._taken = 0

    @property
    def blocked(self) -> bool:
        return self._composer.blocked

    @property
    def faults(self) -> Sequence[Fault]:
        """So far."""
        return self._chain.faults

    def take(self) -> tuple[Hit, ...]:
        """The hits since the last call."""
        begin, self._taken = self._taken, len(self._composer.hits)
        return tuple(self._composer.hits[begin:])

    def feed(self, text: str) -> None:
        if self._idle or self._ended or not text:
            return
        self._start()
        self._composer.grow(text)
        self._queue.put_nowait(text)

    def end(self) -> None:
        if not (self._idle or self._ended):
            self._start()
            self._ended = True
            self._queue.put_nowait(None)

    async def verdict(self) -> Verdict:
        self.end()
        if self._task is None:
            return _verdict(self._plan, "", (), {}, (), {})
        return await asyncio.shield(self._task)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            if self._preceding:
                self._queue.put_nowait(self._preceding)

    async def _run(self) -> Verdict:
        composer = self._composer
        text: str | None = ""
        while text is not None and not composer.ended:
            text = await self._queue.get()
            progress = await self._chain.feed(Piece(text or ""), final=text is None)
            for finding in progress.findings:
                composer.add(finding)
            composer.advance(progress.settled, final=text is None)
            self.checked = max(self.checked, composer.released_to)
        await self._chain.aclose()
        verdict = _verdict(
            self._plan,
            composer.text,
            composer.hits,
            composer.scores,
            self._chain.faults,
            self._chain.timings,
        )
        if self._report is not None and self._plan.mode == "monitor":
            self._report(verdict)
        return verdict


def _error(fault: Fault) -> Finding:
    return Finding(fault.filter, "error", Span(0, 0), 1.0, fault.reason)


def _verdict(
    plan: StagePlan,
    text: str,
    hits: Sequence[Hit],
    scores: Mapping[str, float],
    faults: Sequence[Fault],
    timings: Mapping[str, float],
) -> Verdict:
    ordered = sorted(hits, key=lambda h: (h.finding.span, h.finding.filter, h.finding.category))
    strongest = max(ordered, key=lambda h: h.action, default=None)  # the first of equals
    return Verdict(
        action=strongest.action if strongest else Action.ALLOW,
        text=text,
        hits=tuple(ordered),
        scores=dict(sorted(scores.items())),
        rule=strongest.rule if strongest else None,
        policy_version=plan.version,
        faults=tuple(faults),
        timings=timings,
    )
