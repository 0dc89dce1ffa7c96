"""Settings that are tables of the file: what policies may name, and how it is run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from gateway.settings.values import Address, Count


class ClassifierSettings(BaseModel):
    """A text classifier that policies may name: `[classifiers.NAME]` in the file.

    model: folder that `gardefou train classifier` wrote, which needs nothing else; or hub id or
    folder of a transformers sequence classifier, with labels: its labels -> our categories; labels
    left out are not reported. activation: how logits become scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    labels: dict[str, str] = Field(default_factory=dict)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    device: str | None = None


class DetectorSettings(BaseModel):
    """A finder of spans that policies may name: `[detectors.NAME]` in the file.

    model: hub id or folder of a token classifier; or url: the address of a detector elsewhere, up
    to `/api/v1`, and detector: its id there. labels: what it says -> our categories; what is left
    out is not reported.
    params: sent along. key: sent as Bearer. ms: milliseconds for an answer. faults: in a row, after
    which it is left alone for `rest` seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    device: str | None = None
    url: Address | None = None
    detector: str = ""
    labels: dict[str, str] | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    key: SecretStr | None = None
    ms: Count = 1000
    connections: Count = 100
    faults: Count = 5
    rest: float = Field(default=10.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_place(self) -> DetectorSettings:
        if (self.model is None) == (self.url is None):
            raise ValueError("a detector has either a `model` or a `url`")
        if self.url is not None and not self.detector:
            raise ValueError("`detector` is missing: the detector's id at that address")
        return self


class GuardSettings(BaseModel):
    """A generative guard that policies may name: `[guards.NAME]` in the file.

    template: the name of a shipped one, or a file of that form. model: hub id or folder of the
    guard, run here; or upstream: the address of an OpenAI-compatible engine that serves it, as
    upstream_model, with key sent as Bearer. Neither: the engine that also answers.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda n: n.replace("_", "-"),
        populate_by_name=True,
    )

    template: str
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    upstream: Address | None = None
    upstream_model: str = ""
    key: SecretStr | None = None
    ms: Count = 5000

    @model_validator(mode="after")
    def _one_place(self) -> GuardSettings:
        if self.model is not None and self.upstream is not None:
            raise ValueError("give either `model` or `upstream`, not both")
        if self.upstream is not None and not self.upstream_model:
            raise ValueError("`upstream-model` is missing: the guard's name there")
        return self


class BatchSettings(BaseModel):
    """How windows of all streams are scored together: `[batch]` in the file.

    size: windows of a batch at most. ms: that the oldest waits for company at most; None: 2,
    and not at all where company saves nothing. queue: windows that may wait for one model; more are
    refused, and `on_error` decides. threads: cores that the built-in classifier uses at once; None:
    half of them, and four at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Count = 32
    ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    queue: Count = 1024
    threads: Count | None = None
