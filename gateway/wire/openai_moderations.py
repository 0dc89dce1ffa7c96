"""OpenAI's Moderations: `POST /v1/moderations`, by the input rules of the caller's policy.

All 13 of OpenAI's categories are there. Where we do not tell sub-categories apart, each gets its
parent's score. Callers of role `app` get the middle of a score's band, not the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from gateway.filter_results import MIDDLE, severity
from gateway.keys import Role
from gateway.wire.dialect import Strict
from policies.types import Action, Verdict

#: OpenAI's name -> ours.
CATEGORIES: Mapping[str, str] = {
    "harassment": "toxicity",
    "harassment/threatening": "toxicity",
    "hate": "hate",
    "hate/threatening": "hate",
    "illicit": "illicit",
    "illicit/violent": "illicit",
    "self-harm": "self_harm",
    "self-harm/intent": "self_harm",
    "self-harm/instructions": "self_harm",
    "sexual": "sexual",
    "sexual/minors": "sexual",
    "violence": "violence",
    "violence/graphic": "violence",
}


class TextInput(Strict):
    type: Literal["text"]
    text: str


def _form(value: object) -> str | None:
    if isinstance(value, str):
        return "[text]"
    if not isinstance(value, list):
        return None
    return "[parts]" if value and isinstance(value[0], dict | BaseModel) else "[texts]"


Texts = Annotated[list[str], Field(min_length=1, max_length=256)]
Parts = Annotated[list[TextInput], Field(min_length=1, max_length=256)]


class ModerationRequest(Strict):
    """The request's body. `model` is echoed; the policy says which filters run."""

    input: Annotated[
        Annotated[str, Tag("[text]")]
        | Annotated[Texts, Tag("[texts]")]
        | Annotated[Parts, Tag("[parts]")],
        Discriminator(
            _form,
            custom_error_type="form",
            custom_error_message="must be a text, a list of texts, or a list of parts",
        ),
    ]
    model: str = "gardefou"

    def texts(self) -> list[str]:
        """One text for each result. A list of parts is one text, as with OpenAI."""
        if isinstance(self.input, str):
            return [self.input]
        strings = [part for part in self.input if isinstance(part, str)]
        parts = [part.text for part in self.input if isinstance(part, TextInput)]
        return strings or ["\n".join(parts)]


def answer(model: str, verdicts: list[Verdict], role: Role) -> dict[str, Any]:
    """The answer's body."""
    return {
        "id": f"modr-{token_hex(12)}",
        "model": model,
        "results": [_result(verdict, role) for verdict in verdicts],
    }


def _result(verdict: Verdict, role: Role) -> dict[str, Any]:
    hit = {h.finding.category for h in verdict.hits if h.action >= Action.FLAG}
    scores = {theirs: verdict.scores.get(ours, 0.0) for theirs, ours in CATEGORIES.items()}
    if role == "app":
        scores = {category: MIDDLE[severity(score)] for category, score in scores.items()}
    return {
        "flagged": verdict.action >= Action.FLAG,
        "categories": {theirs: ours in hit for theirs, ours in CATEGORIES.items()},
        "category_scores": scores,
        "category_applied_input_types": {
            theirs: ["text"] if ours in verdict.scores else []
            for theirs, ours in CATEGORIES.items()
        },
    }
