"""The sampling fields that OpenAI's two ways to ask for text share, and vLLM's beside them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Tag, field_validator

from gateway.wire.dialect import Few, Generate, Many, Number, Whole, by_form, check_stops
from model_runner.checks import MAX_BIAS, MAX_BIASES, MAX_ID
from model_runner.types import Sampling

TokenId = Annotated[int, Field(ge=0, le=MAX_ID)]  # a key of an object, so a text
Bias = Annotated[Number, Field(ge=-MAX_BIAS, le=MAX_BIAS, allow_inf_nan=False)]
TopK = Annotated[Whole, Field(ge=1, le=MAX_ID)]


class Sampled(Generate):
    """A body that says how to sample. `top_k`, `min_p` and `repetition_penalty` are vLLM's."""

    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    n: Annotated[Whole, Field(ge=1, le=16)] | None = None
    stop: (
        Annotated[
            Annotated[str, Tag("[text]")] | Annotated[Many[str], Tag("[list]")],
            by_form("a text, or a list of up to 4"),
        ]
        | None
    ) = None
    seed: Whole | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Few(MAX_BIASES)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=MAX_ID)] | None = None  # -1 and 0: all, as vLLM says it
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.1, le=10)] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        check_stops([value] if isinstance(value, str) else value or [])
        return value

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """max_tokens, logprobs: as `Sampling` counts them; each form asks in its own way."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=self.logit_bias or {},
            seed=self.seed,
            stop=tuple(stop),
            logprobs=logprobs,
            n=self.n or 1,
        )
