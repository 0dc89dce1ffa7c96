"""What the settings hand to filters."""

from __future__ import annotations

from filters.errors import FilterConfigError
from filters.registry import JudgeModel, Resources
from gateway.guards import make_classifiers, make_detectors, make_guards
from gateway.metrics import Metrics
from gateway.settings.types import Settings
from model_runner.errors import BadRequest
from model_runner.types import ModelRunner


def make_resources(
    settings: Settings,
    *,
    judge: bool,
    rewind: bool = True,
    metrics: Metrics | None = None,
    runner: ModelRunner | None = None,
) -> Resources:
    """What filters may be handed, and what the engine can do. Raises FilterConfigError.

    runner: the engine that answers, for guards that are asked of it. `gateway.guards` starts what
    has to be started, and lets go of it all.
    """
    return Resources(
        classifiers=make_classifiers(settings, metrics),
        detectors=make_detectors(settings, metrics),
        guards=make_guards(settings, runner),
        judge=judge,
        probes=frozenset(settings.probes),
        rewind=rewind,
        kinds=settings.kinds,
        files=settings.files,
        redaction_key=(settings.redaction_key or "").encode(),
    )


def judge_model(runner: ModelRunner) -> JudgeModel:
    """What is known of a started runner's model, if it can judge."""
    if not runner.capabilities.score:
        return JudgeModel()

    def encode(text: str) -> tuple[int, ...]:
        try:
            return runner.encode(text)
        except BadRequest as error:
            raise FilterConfigError(str(error)) from error

    return JudgeModel(runner.info.digest, encode)
