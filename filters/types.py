"""What a filter is. A filter *finds*; it never decides what is done about a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Stage = Literal["input", "output", "tool_arguments", "tool_result"]
Scope = Literal["message", "conversation"]

#: The category of the finding that a scan reports when it would have to hold more than its cap.
#: A policy answers it with `hold.then`.
OVERFLOW = "overflow"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open range of code points, `start <= end`, in the original text of one channel."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a filter found. Final when reported, and reported once.

    filter: name of the filter's instance in the policy.
    category: what it is, by the filter's own names (`email`, `toxicity`).
    score: how sure the filter is, 0 to 1. Filters report every score; thresholds are the policy's.
    note: for people; never sent to app clients.
    """

    filter: str
    category: str
    span: Span
    score: float = 1.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A delta of text, with what the engine can add about it.

    signals: per-engine extras by name. `probes`: by name, of each token that ends here, its end in
        this text and its score.
    """

    text: str
    signals: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan vouches for its text.

    settled: offset; no finding still to come starts before it. Never moves back.
    findings: those that became final with this feed.
    """

    settled: int
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation that a text belongs to, as plain text."""

    role: str
    text: str


class Judge(Protocol):
    """Asks the model that is served about one text: its own, on that stream's live cache, or one
    that it is to read.
    """

    async def score(self, suffix: str, labels: Sequence[str], *, at: int) -> Mapping[str, float]:
        """Return the probability of each label as the next token after `suffix`.

        suffix: text put behind the stream's text cut at offset `at`.
        labels: each a single token of the model.
        """
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a text before its first character.

    role: who speaks (`user`, `assistant`, `system`, `tool`).
    language: BCP 47 tag where known.
    conversation: earlier turns, oldest first.
    preceding: text already out that this text continues. The screen feeds it to scans ahead of the
        text itself; a finding that begins there and reaches new text counts.
    judge: bound to this stream, or None where no model is at hand.
    fragment: it is a piece of a text that is screened whole, too; a judge of meaning lets it pass.
    asked: whether a window of the text matters, known once a scan is fed it; None: all do. A scan
        for which windows are dear leaves the others out; what it finds there does not count.
    least: the lowest score that anything is done about. A scan may spare what could only lower a
        score that is below it already.
    """

    stage: Stage
    role: str = "user"
    language: str | None = None
    conversation: Sequence[Turn] = field(default=())
    preceding: str = ""
    judge: Judge | None = None
    fragment: bool = False
    asked: Callable[[Span], bool] | None = None
    least: float = 0.0

    def asks(self, window: Span) -> bool:
        """Whether the window matters."""
        return self.asked is None or self.asked(window)


class Scorer(Protocol):
    """A text classifier. `categories`: what it scores, each 0 to 1 and independent of the others.

    `score` is a pure function of each text: neither order nor company of texts changes a score.
    """

    @property
    def categories(self) -> Sequence[str]: ...

    async def score(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a `SpanFinder` found in one text: offsets count from the text's first character."""

    category: str
    span: Span
    score: float


class SpanFinder(Protocol):
    """Finds spans in texts: a token classifier, or a detector elsewhere.

    categories: what it can find; None if it does not say.
    `find` is a pure function of each text. Raises FilterFailed.
    """

    @property
    def categories(self) -> frozenset[str] | None: ...

    async def find(self, texts: Sequence[str]) -> Sequence[Sequence[Found]]: ...


class Guard(Protocol):
    """A model that is asked about the last of several turns. `categories`: what it scores.

    `judge` is a pure function of its arguments. Raises FilterFailed.
    """

    @property
    def categories(self) -> frozenset[str]: ...

    async def judge(self, turns: Sequence[Turn]) -> Mapping[str, float]:
        """The probability of each category, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """A part of a prompt. `control`: a control token's name; all else is text, and stays so."""

    text: str
    control: bool = False


class PromptModel(Protocol):
    """Says how likely tokens are behind a prompt."""

    async def probabilities(
        self, prompt: Sequence[PromptPiece], labels: Sequence[str]
    ) -> Mapping[str, float]:
        """The probability of each label's first token; labels differ there. Raises FilterFailed."""
        ...


class Scan(Protocol):
    """One text that grows. A whole text is one feed with `final=True`."""

    async def feed(self, piece: Piece, *, final: bool) -> Progress: ...

    async def aclose(self) -> None: ...


class Filter(Protocol):
    """Opens scans. One instance serves many texts at once and keeps no text of its own.

    name: the instance's name in the policy's YAML, never the class.
    scope: `message` sees one text; `conversation` also reads `context.conversation`.
    immediate: `feed` never suspends, so the chain may call it without a task or a timer. Such a
        filter bounds its own time.
    """

    @property
    def name(self) -> str: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def immediate(self) -> bool: ...

    def open(self, context: Context) -> Scan: ...
