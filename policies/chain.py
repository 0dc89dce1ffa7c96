"""Runs the filters of a stage side by side, each within its time limit, and fails closed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from filters.errors import FilterFailed, FilterTimeout
from filters.tasks import is_cancelled
from filters.types import Context, Filter, Finding, Piece, Progress, Scan
from policies import fault_log
from policies.gates import Gate, Spots
from policies.types import Fault, OnError

#: Characters that filters which never suspend are fed in one go; between, other tasks have a turn.
STRIDE = 1024


@dataclass(frozen=True, slots=True)
class Link:
    """A filter in a chain. `timeout`: seconds that a feed may take, for each STRIDE characters.

    gate: which findings of a filter that stands before it in the chain it is asked about.
    least: the lowest score that a rule or a gate of the chain asks for.
    """

    filter: Filter
    timeout: float = 2.0
    on_error: OnError = "block"
    gate: Gate | None = None
    least: float = 0.0


class _Lane:
    """One open scan of a chain. `hears`: of the lanes that it gates."""

    def __init__(self, link: Link, context: Context) -> None:
        self.link = link
        self.scan: Scan | None = None
        self.settled = 0
        self.seconds = 0.0
        self.fault: Fault | None = None
        self.hears: list[Spots] = []
        self._scanned = 0  # how far the scan vouches
        self._length = 0
        self._context = replace(context, least=link.least)

    async def feed(self, piece: Piece, *, final: bool) -> Sequence[Finding]:
        """What is found in the next piece; nothing where the filter fails."""
        findings = await self._read(piece, final=final)
        self.settled = self._scanned
        return self._told(findings)

    def _told(self, findings: Sequence[Finding]) -> Sequence[Finding]:
        for spots in self.hears:
            spots.hear(findings)
            if self.fault is not None:
                spots.open_from(self.settled)
        return findings

    async def _read(self, piece: Piece, *, final: bool) -> Sequence[Finding]:
        began = perf_counter()
        self._length += len(piece.text)
        try:
            return self._checked(await self._feed(piece, final=final), final=final)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            return self._failed(error)  # it is the filter's own
        # The fail-closed boundary: whatever a filter raises is a fault that the policy answers.
        except Exception as error:  # noqa: BLE001
            return self._failed(error)
        finally:
            self.seconds += perf_counter() - began

    def _failed(self, error: BaseException) -> Sequence[Finding]:
        reason = fault_log.reason(error)
        self.fault = Fault(self.link.filter.name, reason, self.link.on_error)
        fault_log.note(self.fault)
        return ()

    async def _feed(self, piece: Piece, *, final: bool) -> Progress:
        if self.scan is None:
            self.scan = self.link.filter.open(self._context)
        if self.link.filter.immediate:
            return await self.scan.feed(piece, final=final)
        limit = self.link.timeout * max(1, -(-len(piece.text) // STRIDE))
        try:
            async with asyncio.timeout(limit):
                return await self.scan.feed(piece, final=final)
        except TimeoutError as error:
            name = self.link.filter.name
            raise FilterTimeout(f"{name}: took more than {limit:g} s") from error

    def _checked(self, progress: Progress, *, final: bool) -> Sequence[Finding]:
        name, before = self.link.filter.name, self._scanned
        if not before <= progress.settled <= self._length:
            raise FilterFailed(f"{name}: settled went from {before} to {progress.settled}")
        for finding in progress.findings:
            span = finding.span
            if not (before <= span.start <= span.end <= self._length):
                raise FilterFailed(f"{name}: a finding at {span}, after {before} was settled")
            if not 0.0 <= finding.score <= 1.0:
                raise FilterFailed(f"{name}: a score of {finding.score}")
        if final and progress.settled < self._length:
            raise FilterFailed(f"{name}: settled at {progress.settled} of {self._length}")
        self._scanned = progress.settled
        return progress.findings


class _GatedLane(_Lane):
    """Is fed what its gate has settled, and asked about what the gate is open for.

    A gate that fails is open from there on: everything is asked about.
    """

    def __init__(self, link: Link, context: Context, gate: _Lane, by: Gate) -> None:
        self._spots = Spots(by)
        super().__init__(link, replace(context, asked=self._spots.asked))
        self._gate = gate
        self._held = ""
        self.depth: int = gate.depth + 1 if isinstance(gate, _GatedLane) else 0
        gate.hears.append(self._spots)

    async def feed(self, piece: Piece, *, final: bool) -> Sequence[Finding]:
        self._held += piece.text
        ready = len(self._held)
        if self._gate.fault is None:
            ready = self._gate.settled - self._length
        text, self._held = self._held[:ready], self._held[ready:]
        if not (text or final):
            return ()
        found = await self._read(Piece(text), final=final)
        counts = ((f, self._spots.cut(f)) for f in found)
        told = [replace(f, span=span) for f, span in counts if span is not None]
        self.settled = self._spots.settled(self._length, self._scanned)
        return self._told(told)


class ChainScan:
    """One text going through a chain."""

    def __init__(self, links: Sequence[Link], context: Context) -> None:
        self._lanes: list[_Lane] = []
        self._gated: list[list[_GatedLane]] = []  # those behind one gate, behind two, ...
        for link in links:
            if link.gate is None:
                self._lanes.append(_Lane(link, context))
                continue
            gate = next(x for x in self._lanes if x.link.filter.name == link.gate.name)
            lane = _GatedLane(link, context, gate, link.gate)
            self._lanes.append(lane)
            while len(self._gated) <= lane.depth:
                self._gated.append([])
            self._gated[lane.depth].append(lane)
        free = [lane for lane in self._lanes if lane.link.gate is None]
        # A task costs tens of microseconds: filters that never suspend are called in place.
        self._slow = [lane for lane in free if not lane.link.filter.immediate]
        self._quick = [lane for lane in free if lane.link.filter.immediate]
        self._length = 0

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        """Feed every filter; settled is the least of theirs, findings are ordered by start.

        A filter that faults is left out from there on; its fault is in `faults`. Of a long piece
        the signals are left out.
        """
        self._length += len(piece.text)
        findings: list[Finding] = []
        slow = [lane for lane in self._slow if lane.fault is None]
        if len(slow) > 1:
            for found in await asyncio.gather(*(x.feed(piece, final=final) for x in slow)):
                findings += found
        elif slow:
            findings += await slow[0].feed(piece, final=final)
        whole, text = piece, piece.text
        if len(text) > STRIDE:
            last = (len(text) - 1) // STRIDE * STRIDE
            for at in range(0, last, STRIDE):
                findings += await self._feed_quick(Piece(text[at : at + STRIDE]), final=False)
                await asyncio.sleep(0)
            piece = Piece(text[last:])
        findings += await self._feed_quick(piece, final=final)
        for gated in self._gated:
            behind = [lane for lane in gated if lane.fault is None]
            for found in await asyncio.gather(*(x.feed(whole, final=final) for x in behind)):
                findings += found
        settled = self._length
        for lane in self._lanes:
            if lane.fault is None and lane.settled < settled:
                settled = lane.settled
        if len(findings) > 1:
            findings.sort(key=_order)
        return Progress(settled, findings)

    async def _feed_quick(self, piece: Piece, *, final: bool) -> Sequence[Finding]:
        findings: list[Finding] = []
        for lane in self._quick:
            if lane.fault is None:
                findings += await lane.feed(piece, final=final)
        return findings

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(lane.fault for lane in self._lanes if lane.fault is not None)

    @property
    def timings(self) -> Mapping[str, float]:
        return {lane.link.filter.name: lane.seconds for lane in self._lanes}

    async def aclose(self) -> None:
        for lane in self._lanes:
            if lane.scan is not None:
                await lane.scan.aclose()


def _order(finding: Finding) -> tuple[int, int, str, str, float]:
    span = finding.span
    return span.start, span.end, finding.filter, finding.category, finding.score
