"""What a screen remembers of text that was taken back and written anew; see `StreamScreen.rewind`.

Offsets outside count the text as it stands: what is out, and behind it what is written anew. Each
composer counts from where it began; `Past` moves what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from filters.types import Context, Judge, Span
from policies.chain import ChainScan
from policies.compose import Composer
from policies.rules import Rules
from policies.types import Action, Fault, Hit, Release, Revision, highest

#: Rewinds of one text, whatever its rules' tries.
MOST_REWINDS = 8


class Past:
    """The attempts before the one under way, and the tries that they used up."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._revises = rules.revise
        self._out: list[str] = []  # what is out, as the model wrote it
        self._begin = 0  # where the attempt under way begins
        self._tries: Counter[str] = Counter()
        self._bad: list[str] = []  # what stood at the place of the last revision, each time
        self._bad_at = -1
        self._spent: set[str] = set()
        self._hits: list[Hit] = []
        self._scores: dict[str, float] = {}
        self._faults: list[Fault] = []
        self._timings: Counter[str] = Counter()
        self._cut = False
        self.text = ""
        self.waits = False  # for the rewind that was asked for

    @property
    def rewinds(self) -> int:
        return sum(self._tries.values())

    def show(self, text: str) -> None:
        """Text went out. Kept only where it may have to be read again."""
        if self._revises and text:
            self._out.append(text)

    def moved(self, release: Release) -> Release:
        """A release of the attempt under way, in the offsets of the whole text."""
        if not self._begin:
            return release
        begin = self._begin
        cuts = tuple(Span(c.start + begin, c.end + begin) for c in release.cuts)
        return replace(release, start=release.start + begin, end=release.end + begin, cuts=cuts)

    def revise(self, composer: Composer) -> Revision:
        """What the composer's revision asks for."""
        assert composer.revision is not None  # noqa: S101
        number, bad = composer.revision
        rule = self._rules.rules[number]
        assert rule.steer is not None  # noqa: S101
        to = self._begin + composer.released_to
        if to != self._bad_at:
            self._bad, self._bad_at = [], to
        if bad and bad not in self._bad:
            self._bad.append(bad)
        self._tries[rule.id] += 1
        self.waits = True
        return Revision(to, rule.id, rule.steer, "".join(self._out), tuple(self._bad))

    def go_on(self, composer: Composer, chain: ChainScan) -> Rules:
        """Keep what the attempt said; the rules of the next one."""
        hits, scores, faults, timings = self.told(composer, chain)
        self._hits, self._scores = hits, scores
        self._faults, self._timings = faults, Counter(timings)
        self._begin += composer.released_to
        self.text += composer.text
        self.waits = False
        for rule in self._rules.rules:
            most = rule.steer.tries if rule.steer else 0
            if rule.steer and (self._tries[rule.id] >= most or self.rewinds >= MOST_REWINDS):
                self._spent.add(rule.id)
        return self._rules.given_up(self._spent)

    def refuse(self, composer: Composer) -> None:
        """The rewind that was asked for cannot be: it is a block."""
        self.waits = False
        self._cut = True
        assert composer.revision is not None  # noqa: S101
        rule = self._rules.rules[composer.revision[0]].id
        self._tries[rule] -= 1
        composer.hits = [
            replace(h, action=Action.BLOCK) if h.action is Action.REVISE else h
            for h in composer.hits
        ]

    def gave_up(self, composer: Composer) -> bool:
        """Whether a rule answered that had no more tries."""
        return self._cut or any(hit.rule in self._spent for hit in composer.hits)

    def context(self, context: Context) -> Context:
        """The context of the attempt under way: what is out precedes it."""
        judge = context.judge and _From(context.judge, self._begin)
        return replace(context, preceding=context.preceding + "".join(self._out), judge=judge)

    def told(
        self, composer: Composer, chain: ChainScan
    ) -> tuple[list[Hit], dict[str, float], list[Fault], dict[str, float]]:
        """Hits, scores, faults and seconds of all attempts, the composer's and chain's the last."""
        if not self._begin and not self._tries:
            hits, scores = list(composer.hits), dict(composer.scores)
            return hits, scores, list(chain.faults), dict(chain.timings)
        scores = highest(self._scores, composer.scores)
        hits = [*self._hits, *(_moved(hit, self._begin) for hit in composer.hits)]
        timings = self._timings + Counter(chain.timings)
        return hits, scores, [*self._faults, *chain.faults], dict(timings)


@dataclass(frozen=True)
class _From:
    """A judge whose offsets count from `begin` on."""

    judge: Judge
    begin: int

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        return await self.judge.score(suffix, labels, at=self.begin + at)


def _moved(hit: Hit, by: int) -> Hit:
    span = hit.finding.span
    return replace(hit, finding=replace(hit.finding, span=Span(span.start + by, span.end + by)))
