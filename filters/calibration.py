"""What a judge's probabilities are worth: tables fitted on labelled texts, kept as JSON.

A model that is asked "yes or no?" favours one of the two before it has read anything. What it says
of an empty answer, the prior, is divided out (contextual calibration: Zhao et al. 2021,
"Calibrate Before Use"). In log-odds, with l(p) = ln(p / (1 - p)):

    x = l(P(yes)) - l(prior)

On labelled texts a line is fitted behind that (Platt 1999), and the score is

    1 / (1 + exp(-(slope · x + intercept)))

The prior is measured once, on a fixed conversation, and not on each stream: whoever writes the
prompt must not be able to move it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from filters.errors import FilterConfigError

#: Probabilities nearer to 0 or 1 than this count as this.
NEAREST = 1e-6

Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(_Strict):
    """What a judge's P(yes) is worth, of one rubric, language and model.

    model: digest of the model that it was measured on.
    prior: P(yes) of an empty answer.
    slope, intercept: of the line in log-odds.
    examples: labelled texts that it was fitted on; 0 where the prior alone was measured.
    """

    question: str
    language: str
    yes: str
    no: str
    model: str
    prior: Probability
    slope: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    intercept: Finite = 0.0
    examples: Annotated[int, Field(ge=0)] = 0

    @property
    def fitted(self) -> bool:
        """Whether labelled texts stand behind it."""
        return self.examples > 0

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What it is a table of; there is one for each."""
        return self.question, self.language, self.yes, self.no, self.model

    def evidence(self, probability: float) -> float:
        """P(yes) with the prior divided out, in log-odds."""
        return log_odds(probability) - log_odds(self.prior)

    def score(self, probability: float) -> float:
        """P(yes) -> how likely it is, 0 to 1. Never falls while P(yes) rises."""
        return logistic(self.slope * self.evidence(probability) + self.intercept)


class Tables(_Strict):
    """The file: `POLICY.calibration.json` beside `POLICY.yaml`."""

    format: Literal[1] = 1
    tables: tuple[Table, ...] = ()

    def find(self, key: tuple[str, str, str, str, str]) -> Table | None:
        return next((table for table in self.tables if table.key == key), None)

    def with_table(self, table: Table) -> Tables:
        """These with `table` in the place of the one that it renews."""
        others = [one for one in self.tables if one.key != table.key]
        return Tables(tables=tuple(sorted([*others, table], key=lambda one: one.key)))


def parse_tables(text: str) -> Tables:
    """Raises FilterConfigError, naming what is wrong."""
    try:
        return Tables.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}." for part in first["loc"])[:-1]
        wrong = f"{place}: {first['msg']}" if place else first["msg"]
        raise FilterConfigError(f"calibration tables: {wrong}") from error


def log_odds(probability: float) -> float:
    bounded = min(max(probability, NEAREST), 1.0 - NEAREST)
    return math.log(bounded / (1.0 - bounded))


def logistic(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1.0 + grown)
