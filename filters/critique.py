"""The `critique` filter: a rubric put to the model itself, on its own live cache.

P(yes) is read from the logits of the label tokens, never parsed from prose, so that the judged text
cannot answer for the judge by writing "no".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from filters.errors import FilterConfigError, FilterFailed
from filters.registry import Resources
from filters.types import Context, Finding, Judge, Piece, Progress, Scope
from filters.windows import Windows

#: Put behind the judged text, as plain text.
SUFFIX = "\n\n---\n{question}\nAnswer {yes} or {no}. Answer:"


class CritiqueFilter:
    """Reports, for each window, the probability that the answer to `question` is yes.

    yes, no: labels, each a single token of the judging model.
    limit: characters a window has at most.
    """

    scope: Scope = "message"
    immediate = False
    needs_judge = True

    def __init__(
        self, name: str, question: str, *, yes: str = " yes", no: str = " no", limit: int = 400
    ) -> None:
        self.name = name
        self.labels = (yes, no)
        self.suffix = SUFFIX.format(question=question, yes=yes.strip(), no=no.strip())
        self.limit = limit

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> CritiqueFilter:
        """Build from YAML: the question, or `{question, yes, no, limit}`."""
        if not resources.judge:
            raise FilterConfigError("critique needs an engine that can score; this one cannot")
        if isinstance(options, str):
            options = {"question": options}
        if not isinstance(options, Mapping) or not isinstance(options.get("question"), str):
            raise FilterConfigError("expected a question, or {question: …, yes: …, no: …}")
        kinds = {"question": str, "yes": str, "no": str, "limit": int}
        for key, value in options.items():
            if key not in kinds:
                raise FilterConfigError(f"unknown key {key!r}: {', '.join(kinds)}", (key,))
            if not isinstance(value, kinds[key]) or not value:
                raise FilterConfigError(f"`{key}` is a {kinds[key].__name__}", (key,))
        return cls(name, **options)

    @property
    def categories(self) -> frozenset[str]:
        return frozenset({"yes"})

    def open(self, context: Context) -> CritiqueScan:
        if context.judge is None:
            raise FilterFailed(f"{self.name}: no model to ask at this stage")
        return CritiqueScan(self, context.judge, len(context.preceding))


class CritiqueScan:
    def __init__(self, owner: CritiqueFilter, judge: Judge, preceding: int) -> None:
        self._owner = owner
        self._judge = judge
        self._preceding = preceding  # the judge's offsets count from the new text
        self._windows = Windows(owner.limit)

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        owner, findings = self._owner, []
        for span, text in self._windows.feed(piece.text, final=final):
            at = span.end - self._preceding
            if not text.strip() or at <= 0:
                continue
            scores = await self._judge.score(owner.suffix, owner.labels, at=at)
            findings.append(Finding(owner.name, "yes", span, self._probability(scores)))
        return Progress(self._windows.start, findings)

    async def aclose(self) -> None:
        return None

    def _probability(self, scores: Mapping[str, float]) -> float:
        yes, no = (scores.get(label, math.nan) for label in self._owner.labels)
        if not (yes >= 0 and no >= 0 and yes + no > 0):
            raise FilterFailed(f"{self._owner.name}: the judge gave {yes} and {no}")
        return yes / (yes + no)
