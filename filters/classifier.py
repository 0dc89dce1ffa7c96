"""The `classifier` filter: scores of a text classifier, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice

from filters.batching import Batcher
from filters.builtin.scorer import NAME as BUILT_IN
from filters.builtin.scorer import BuiltinModel
from filters.errors import FilterConfigError, FilterFailed
from filters.registry import Resources
from filters.types import Context, Finding, Piece, Progress, Scope, Scorer, Span
from filters.windows import Windows, ends_sentence


@cache
def built_in() -> Scorer:
    """The classifier that ships, one for the process."""
    return Batcher(BuiltinModel(), name=BUILT_IN)


class ClassifierFilter:
    """Reports every category's score for every window.

    A window is read twice, and the lower score of each category counts: as the sentence it is (with
    those before it while it is shorter than `least`), and together with up to `context` characters
    before it. A harmless sentence stays harmless in odd company, and one that is harmful only in
    words, not in its place, does too. (Answers that turn harmful and their twins: false alarms
    fell from 15 % to 4 % at the same recall.) The finding's span covers the window alone, so that
    spans tile the text.
    limit: characters a window has at most. clause: past so many, a clause's end ends one too, so
    that a long sentence is not held to its end.
    """

    scope: Scope = "message"
    immediate = False

    def __init__(
        self,
        name: str,
        scorer: Scorer,
        *,
        limit: int = 400,
        context: int = 200,
        least: int = 40,
        clause: int | None = 120,
    ) -> None:
        self.name = name
        self.scorer = scorer
        self.limit = limit
        self.context = context
        self.least = least
        self.clause = clause

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> ClassifierFilter:
        """Build from YAML: the name of a classifier that the settings define, or `builtin`."""
        if not isinstance(options, str):
            raise FilterConfigError("expected the name of a classifier from the settings")
        scorer = resources.classifiers.get(options)
        if scorer is None and options == BUILT_IN:
            scorer = built_in()
        if scorer is None:
            known = ", ".join(sorted(resources.classifiers)) or "none is defined"
            raise FilterConfigError(f"no classifier {options!r} in the settings: {known}")
        if isinstance(scorer, Batcher):
            scorer.load()  # takes seconds, and the first text would overstep its time limit
        return cls(name, scorer)

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(self.scorer.categories)

    def open(self, context: Context) -> ClassifierScan:
        return ClassifierScan(self, context)


class ClassifierScan:
    def __init__(self, owner: ClassifierFilter, context: Context) -> None:
        self._owner = owner
        self._context = context
        self._windows = Windows(owner.limit, clause=owner.clause)
        self._past: list[str] = []  # windows, of `context` characters or more

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        owner = self._owner
        texts: list[str] = []
        readings: list[tuple[Span, int]] = []  # how many of `texts` are of this window
        for span, text in self._windows.feed(piece.text, final=final):
            if text.strip() and self._context.asks(span):
                own = list(dict.fromkeys(self._readings(text)))
                readings.append((span, len(own)))
                texts += own
            self._remember(text)
        findings: list[Finding] = []
        if texts:
            scores = await owner.scorer.score(texts)
            if len(scores) != len(texts):
                raise FilterFailed(f"{owner.name}: {len(scores)} answers for {len(texts)} texts")
            rows = iter(scores)
            for span, count in readings:
                first, *others = islice(rows, count)
                findings += [
                    Finding(owner.name, c, span, min([float(s), *(float(o[c]) for o in others)]))
                    for c, s in first.items()
                ]
        return Progress(self._windows.start, findings)

    def _readings(self, text: str) -> Iterator[str]:
        """The window in its place, and its sentence."""
        most = self._owner.context + len(text)
        sentence = text
        for before in reversed(self._past):
            enough = len(sentence.strip()) >= self._owner.least and ends_sentence(before)
            if enough or len(sentence) >= most:
                break
            sentence = before + sentence
        yield "".join([*self._past, text])[-most:]
        yield sentence[-most:]

    def _remember(self, text: str) -> None:
        self._past.append(text)
        spare = sum(map(len, self._past)) - self._owner.context
        while self._past and spare >= len(self._past[0]):
            spare -= len(self._past.pop(0))

    async def aclose(self) -> None:
        return None
