"""What a generative guard is asked, and what its answer means: data files in `filters/guards`.

control: names of control tokens that the template writes. labels: what the guard may answer with ->
the category that it stands for, `asked` for the one that was asked about, nothing for harmless.
ask: category -> role of the last turn -> guideline, for guards that are asked about one at a time.
template: Jinja; it sees `turns` (of `role` and `content`), `category` and `guideline`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from filters.errors import FilterConfigError, FilterFailed
from filters.types import PromptModel, PromptPiece, Turn

SHIPPED = Path(__file__).parent / "guards"
#: A guard whose labels have less probability together does not answer the question.
LEAST = 1e-6
_ASKED = "asked"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    control: tuple[str, ...] = ()
    labels: dict[str, str | None] = Field(min_length=2)
    ask: dict[str, dict[str, str]] = Field(default_factory=dict)
    template: str


class GuardTemplate:
    """One guard's prompt. `categories`: what it can find. `labels`: what it may answer with."""

    def __init__(self, text: str, source: str = "template") -> None:
        """Raises FilterConfigError."""
        try:
            self._spec = _Spec.model_validate(YAML(typ="safe", pure=True).load(text))
            environment = ImmutableSandboxedEnvironment(
                undefined=StrictUndefined, keep_trailing_newline=True
            )
            self._template = environment.from_string(self._spec.template)
        except (YAMLError, ValidationError, TemplateError) as error:
            raise FilterConfigError(f"{source}: {error}") from error
        named = set(self._spec.labels.values())
        if (_ASKED in named) != bool(self._spec.ask):
            raise FilterConfigError(f"{source}: `ask` goes with a label that means `{_ASKED}`")
        if named <= {None} or None not in named:
            raise FilterConfigError(f"{source}: one label is harmless, and one is not")
        self.labels = tuple(self._spec.labels)
        self.categories = frozenset(n for n in named if n and n != _ASKED) | set(self._spec.ask)
        control = sorted(self._spec.control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    @classmethod
    def load(cls, name: str) -> GuardTemplate:
        """A shipped one by its name, or a file. Raises FilterConfigError."""
        shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
        path = shipped.get(name, Path(name))
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(shipped)
            raise FilterConfigError(f"no guard template {name!r}; shipped: {known}") from error

    @property
    def questions(self) -> tuple[str | None, ...]:
        """Categories to ask about one at a time; None alone for one question about everything."""
        return tuple(self._spec.ask) or (None,)

    def render(self, turns: Sequence[Turn], asked: str | None = None) -> list[PromptPiece]:
        """The prompt. What turns say is text in it, whatever it spells. Raises FilterFailed.

        Placeholders stand for contents while the template is rendered, so that the template's own
        control tokens can be told from those that a content spells.
        """
        names = [f"x{secrets.token_hex(12)}x" for _ in turns]
        shown = [{"role": t.role, "content": n} for t, n in zip(turns, names, strict=True)]
        guideline = ""
        if asked is not None:
            by_role = self._spec.ask[asked]
            guideline = by_role.get(turns[-1].role) or next(iter(by_role.values()))
        try:
            text = self._template.render(turns=shown, category=asked, guideline=guideline)
        except TemplateError as error:
            raise FilterFailed(f"the guard's template fails: {type(error).__name__}") from error
        if names[-1] not in text:
            raise FilterFailed("the guard's template leaves out what it is to judge")
        contents = {name: turn.text.strip() for name, turn in zip(names, turns, strict=True)}
        pieces: list[PromptPiece] = []
        for part in re.split(f"({'|'.join(names)})", text):
            pieces += [PromptPiece(contents[part])] if part in contents else self._own(part)
        return pieces

    def scores(self, probabilities: Mapping[str, float], asked: str | None) -> dict[str, float]:
        """Of each category, its labels' share of all labels. Raises FilterFailed."""
        total = sum(probabilities.get(label, 0.0) for label in self.labels)
        if not total >= LEAST:
            raise FilterFailed("the guard does not answer with any of its labels")
        found: dict[str, float] = {}
        for label, means in self._spec.labels.items():
            category = asked if means == _ASKED else means
            if category is not None:
                share = probabilities.get(label, 0.0) / total
                found[category] = min(1.0, found.get(category, 0.0) + share)
        return found

    def _own(self, text: str) -> list[PromptPiece]:
        pieces, at = [], 0
        for match in self._control.finditer(text):
            pieces += [PromptPiece(text[at : match.start()]), PromptPiece(match[0], control=True)]
            at = match.end()
        return [piece for piece in (*pieces, PromptPiece(text[at:])) if piece.text]


class TemplateGuard:
    """A `Guard`: a template, and a model that says how likely its labels are."""

    def __init__(self, template: GuardTemplate, model: PromptModel) -> None:
        self.template = template
        self.model = model

    @property
    def categories(self) -> frozenset[str]:
        return self.template.categories

    async def judge(self, turns: Sequence[Turn]) -> Mapping[str, float]:
        shown = [_spoken(turn) for turn in turns if turn.role not in {"system", "developer"}]
        answers = await asyncio.gather(
            *(self._ask(shown, asked) for asked in self.template.questions)
        )
        return {category: score for answer in answers for category, score in answer.items()}

    async def _ask(self, turns: Sequence[Turn], asked: str | None) -> Mapping[str, float]:
        prompt = self.template.render(turns, asked)
        found = await self.model.probabilities(prompt, self.template.labels)
        return self.template.scores(found, asked)

    async def start(self) -> None:
        """Make the model ready, and see that it has the template's tokens, if that can be known.

        Raises FilterConfigError.
        """
        if (begin := getattr(self.model, "start", None)) is not None:
            await begin()
        if (encoded := getattr(self.model, "encoded", None)) is not None:
            try:
                for asked in self.template.questions:
                    encoded(self.template.render([Turn("user", "?")], asked), self.template.labels)
            except FilterFailed as error:
                raise FilterConfigError(f"guard {error}") from error

    @property
    def absent(self) -> bool:
        """Whether there is no model to ask, as where a policy is only looked at."""
        return getattr(self.model, "absent", False)

    async def aclose(self) -> None:
        if (end := getattr(self.model, "aclose", None)) is not None:
            await end()


def _spoken(turn: Turn) -> Turn:
    """Guards know two speakers: what comes from a tool is read as from a user."""
    return turn if turn.role in {"user", "assistant"} else Turn("user", turn.text)


def joined(prompt: Sequence[PromptPiece]) -> list[PromptPiece]:
    """The same with neighbouring texts joined: a tokenizer must see them as one."""
    pieces: list[PromptPiece] = []
    for piece in prompt:
        if pieces and not piece.control and not pieces[-1].control:
            pieces[-1] = PromptPiece(pieces[-1].text + piece.text)
        else:
            pieces.append(piece)
    return pieces


def break_up(text: str, names: Sequence[str]) -> str:
    """`text` with control tokens' names made unreadable, for engines that take prompts as text.

    A zero-width joiner behind the first character does not show, and no tokenizer reads past it.
    """
    pattern = re.compile("|".join([*map(re.escape, names), r"<\|[^|<>\s]{1,64}\|>", r"</?s>"]))
    return pattern.sub(lambda match: match[0][0] + "\u200d" + match[0][1:], text)


def as_text(prompt: Sequence[PromptPiece]) -> str:
    """A prompt for an engine that takes text: only the template's control tokens are readable."""
    names: list[Any] = sorted({p.text for p in prompt if p.control}, key=len, reverse=True)
    spelled = (p.text if p.control else break_up(p.text, names) for p in joined(prompt))
    return "".join(spelled)
