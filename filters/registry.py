"""Filter kinds by name: the three that ship, and those that other packages bring.

A package brings a kind by an entry point in the group `gardefou.filters`:

    [project.entry-points."gardefou.filters"]
    shouting = "my_package:Shouting"

The object has `from_options(name, options, resources) -> Filter`, or is a class called with
`(name, options)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from filters.errors import FilterConfigError
from filters.types import Filter

if TYPE_CHECKING:
    from filters.classifier import Scorer

GROUP = "gardefou.filters"
BUILT_IN = {
    "regex": "filters.regex:RegexFilter",
    "classifier": "filters.classifier:ClassifierFilter",
    "critique": "filters.critique:CritiqueFilter",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What filters may be handed. Policies name things; the settings say what they are.

    classifiers: text classifiers by name.
    judge: whether the engine can answer `context.judge`.
    cap: characters that a scan may hold before it reports an overflow.
    """

    classifiers: Mapping[str, Scorer] = field(default_factory=dict)
    judge: bool = False
    cap: int = 4096


Factory = Callable[[str, object, Resources], Filter]


def kinds() -> tuple[str, ...]:
    """Names of all filter kinds that are installed."""
    return tuple(sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))}))


def build(kind: str, name: str, options: object, resources: Resources) -> Filter:
    """Make the filter `name` of `kind`. Raises FilterConfigError."""
    made = _factory(kind)(name, options, resources)
    for attribute in ("name", "scope", "immediate", "open"):
        if not hasattr(made, attribute):
            raise FilterConfigError(f"kind {kind!r} makes objects without `{attribute}`")
    return made


@cache
def _factory(kind: str) -> Factory:
    if kind in BUILT_IN:
        module, _, attribute = BUILT_IN[kind].partition(":")
        target = getattr(import_module(module), attribute)
    else:
        points = entry_points(group=GROUP, name=kind)
        if not points:
            raise FilterConfigError(f"unknown kind {kind!r}: {', '.join(kinds())}")
        target = next(iter(points)).load()
    from_options: Factory | None = getattr(target, "from_options", None)
    if from_options is not None:
        return from_options

    def call(name: str, options: object, _: Resources) -> Filter:
        made: Filter = target(name, options)
        return made

    return call
