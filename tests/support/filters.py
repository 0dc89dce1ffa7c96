"""Filters, a classifier and a judge that are pure functions of text, for properties."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from re import finditer
from zlib import crc32

from filters.types import Context, Finding, Found, Piece, Progress, Scope, Span, Turn


class WordScorer:
    """A classifier that finds a text as bad as the words in it. Suspends, as a real one does."""

    categories: Sequence[str] = ("bad", "odd")

    def __init__(self, words: Mapping[str, float] | None = None) -> None:
        self.words = words or {"kill": 0.9, "hit": 0.6}
        self.asked: list[str] = []

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        await asyncio.sleep(0)
        self.asked += texts
        return [self.of(text) for text in texts]

    def of(self, text: str) -> Mapping[str, float]:
        bad = max((s for word, s in self.words.items() if word in text), default=0.0)
        return {"bad": bad, "odd": crc32(text.encode()) % 100 / 100}


class WordModel:
    """The same, as a model that blocks."""

    categories: Sequence[str] = ("bad", "odd")

    def __init__(self, words: Mapping[str, float] | None = None) -> None:
        self._scorer = WordScorer(words)

    def compute(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        return [self._scorer.of(text) for text in texts]


class WordFinder:
    """Finds words, and numbers them by what stands around them."""

    categories = frozenset({"word"})

    async def find(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]:
        await asyncio.sleep(0)
        return [
            [
                Found("word", Span(*match.span()), crc32(text.encode()) % 100 / 100)
                for match in finditer("kill|hit( kill)?", text)
            ]
            for text in texts
        ]


class TextGuard:
    """A guard whose answer depends on all that it is shown."""

    categories = frozenset({"unsafe"})

    async def judge(self, turns: Sequence[Turn]) -> Mapping[str, float]:
        await asyncio.sleep(0)
        return {"unsafe": crc32(repr(turns).encode()) % 100 / 100}


class PureJudge:
    """A judge whose answer depends on the text up to `at`, and on nothing else."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[int] = []

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        await asyncio.sleep(0)
        assert 0 <= at <= len(self.text)
        self.asked.append(at)
        yes = crc32((self.text[:at] + suffix).encode()) % 100 / 100
        return dict(zip(labels, (yes, 1 - yes), strict=True))


class Misbehaving:
    """Does `what` on the feed that holds the word `now`; else settles everything."""

    scope: Scope = "message"

    def __init__(self, what: str, *, immediate: bool = False) -> None:
        self.name = what
        self.immediate = immediate
        self._what = what

    def open(self, context: Context) -> _MisbehavingScan:
        if self._what == "refuses" and context.stage == "output":
            raise RuntimeError("will not open")
        return _MisbehavingScan(self._what)


class _MisbehavingScan:
    def __init__(self, what: str) -> None:
        self._what = what
        self._length = 0
        self.closed = False

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        before, self._length = self._length, self._length + len(piece.text)
        nonsense = Finding(self._what, "x", Span(before, self._length), 1.0)
        if "now" not in piece.text:
            return Progress(self._length)
        match self._what:
            case "raises":
                raise ValueError("private text")
            case "cancels":
                raise asyncio.CancelledError
            case "hangs":
                await asyncio.sleep(60)
            case "unsettles":
                return Progress(before - 1)
            case "overreaches":
                return Progress(self._length + 1)
            case "late":
                return Progress(self._length, [Finding(self._what, "x", Span(0, 1), 1.0)])
            case "nan":
                return Progress(
                    self._length, [Finding(self._what, "x", nonsense.span, float("nan"))]
                )
            case "stalls":
                return Progress(before if final else self._length)
        return Progress(self._length)

    async def aclose(self) -> None:
        self.closed = True
