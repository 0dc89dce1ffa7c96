"""Classifiers, detectors and guards that the settings define, as filters take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import isawaitable
from pathlib import Path
from typing import Any, cast

from filters.batching import BatchedFinder, Batcher, SpanModel, TextModel
from filters.breaker import CircuitBreaker
from filters.builtin.scorer import FOLDER, WEIGHTS, BuiltinModel, batched
from filters.builtin.scorer import NAME as BUILT_IN
from filters.errors import FilterConfigError
from filters.guard_template import GuardTemplate, TemplateGuard
from filters.registry import Resources
from filters.remote_detector import RemoteDetector
from filters.types import Guard, PromptModel, Scorer, SpanFinder
from gateway.extras import local_extra
from gateway.guard_models import CompletionPrompts, EnginePrompts, GuardEngine, NoPrompts
from gateway.metrics import Metrics
from gateway.settings.tables import ClassifierSettings, DetectorSettings, GuardSettings
from gateway.settings.types import Settings
from model_runner.registry import backend
from model_runner.types import ModelRunner


def make_classifiers(settings: Settings, metrics: Metrics | None) -> Mapping[str, Scorer]:
    """Raises FilterConfigError."""
    classifiers: dict[str, Scorer] = {}
    ships = {BUILT_IN: ClassifierSettings(model=str(FOLDER))}
    for name, one in (ships | settings.classifiers).items():
        options = batch_options(settings, name, metrics)
        if _ours(one):
            classifiers[name] = batched(_trained(name, one, settings), **options)
        else:
            classifiers[name] = Batcher(_transformer(name, one), **options)
    return classifiers


def _ours(one: ClassifierSettings) -> bool:
    """Whether it is a folder that `gardefou train classifier` wrote."""
    try:
        return Path(one.model).expanduser().joinpath(WEIGHTS).exists()
    except (OSError, RuntimeError) as error:  # not to be read; no such user's home
        raise FilterConfigError(f"classifier {one.model!r}: {error}") from error


def _trained(name: str, one: ClassifierSettings, settings: Settings) -> BuiltinModel:
    if others := sorted(one.model_fields_set - {"model"}):
        raise FilterConfigError(
            f"classifier {name!r}: what `gardefou train classifier` wrote has labels of its own;"
            f" leave out `{others[0]}`"
        )
    return BuiltinModel(Path(one.model).expanduser(), threads=settings.batch.threads)


def _transformer(name: str, one: ClassifierSettings) -> TextModel:
    if not one.labels:
        raise FilterConfigError(
            f"classifier {name!r}: in {one.model} there is no {WEIGHTS}, as `gardefou train"
            " classifier` writes it in the end; any other model needs `labels`: which of its"
            " labels are which categories"
        )
    with local_extra(f"classifier {name!r}", FilterConfigError):
        made = import_module("filters.sequence_classifier").SequenceClassifier
    model: TextModel = made(one.model, one.labels, activation=one.activation, device=one.device)
    return model


def make_detectors(settings: Settings, metrics: Metrics | None) -> Mapping[str, SpanFinder]:
    """Raises FilterConfigError."""
    return {
        name: _detector(name, one, settings, metrics) for name, one in settings.detectors.items()
    }


def batch_options(settings: Settings, name: str, metrics: Metrics | None) -> dict[str, Any]:
    """Options of a `filters.batching.Worker`."""
    batch = settings.batch
    linger = {} if batch.ms is None else {"linger": batch.ms / 1000}
    return linger | {
        "size": batch.size,
        "queue": batch.queue,
        "observer": metrics.batches(name) if metrics else None,
        "name": name,
    }


def make_guards(settings: Settings, runner: ModelRunner | None) -> Mapping[str, Guard]:
    """runner: the engine that answers. Nothing is loaded yet. Raises FilterConfigError."""
    return {
        name: TemplateGuard(GuardTemplate.load(one.template), _prompts(name, one, runner))
        for name, one in settings.guards.items()
    }


async def start_guards(resources: Resources, say: Callable[[str], object]) -> None:
    """Load the guards' models: one that cannot be loaded must not be found out later.

    Raises FilterConfigError.
    """
    for name, guard in resources.guards.items():
        if (begin := getattr(guard, "start", None)) is not None:
            say(f"loading the guard {name}")
            await begin()


def _prompts(name: str, one: GuardSettings, runner: ModelRunner | None) -> PromptModel:
    if one.upstream is not None:
        return CompletionPrompts(
            name,
            one.upstream,
            one.upstream_model,
            key=one.key.get_secret_value() if one.key else None,
            timeout=one.ms / 1000,
        )
    if one.model is not None:
        with local_extra(f"guard {name!r} with a `model` of its own", FilterConfigError):
            runner_class = backend("transformers")
        made = runner_class(one.model, name=name, device=one.device, dtype=one.dtype)
        return EnginePrompts(name, cast("GuardEngine", made), own=True)
    if runner is None:
        return NoPrompts(name)
    if not (runner.capabilities.score and hasattr(runner, "control")):
        raise FilterConfigError(f"guard {name!r}: this engine cannot be asked; give it a `model`")
    return EnginePrompts(name, cast("GuardEngine", runner), own=False)


async def close_resources(resources: Resources) -> None:
    """End the threads and connections of what filters were handed."""
    handed = (resources.classifiers, resources.detectors, resources.guards)
    for one in (made for table in handed for made in table.values()):
        end = getattr(one, "aclose", None) or getattr(one, "close", None)
        if end is not None and isawaitable(ended := end()):
            await ended


def _detector(
    name: str, one: DetectorSettings, settings: Settings, metrics: Metrics | None
) -> SpanFinder:
    if one.url is None:
        with local_extra(f"detector {name!r}", FilterConfigError):
            made = import_module("filters.token_classifier").TokenClassifier
        model: SpanModel = made(one.model, one.labels, device=one.device)
        return BatchedFinder(model, **batch_options(settings, name, metrics))
    return RemoteDetector(
        name,
        one.url,
        one.detector,
        labels=one.labels,
        params=one.params,
        key=one.key.get_secret_value() if one.key else None,
        timeout=one.ms / 1000,
        connections=one.connections,
        breaker=CircuitBreaker(name, faults=one.faults, rest=one.rest),
    )
