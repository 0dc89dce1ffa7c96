"""Filter kinds by name: those that ship, those that other packages bring, and single files.

A package brings a kind by an entry point in the group `gardefou.filters`:

    [project.entry-points."gardefou.filters"]
    shouting = "my_package:Shouting"

A single file is named by the settings, as `shouting=path/to/file.py:Shouting`: a policy cannot name
code. The object has `from_options(name, options, resources) -> Filter`, or is a class called with
`(name, options)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from filters.errors import FilterConfigError, place
from filters.types import Filter, Guard, Scorer, SpanFinder

GROUP = "gardefou.filters"
BUILT_IN = {
    "regex": "filters.regex:RegexFilter",
    "classifier": "filters.classifier:ClassifierFilter",
    "probe": "filters.probe:ProbeFilter",
    "critique": "filters.critique:CritiqueFilter",
    "terms": "filters.terms:TermsFilter",
    "overlap": "filters.overlap:OverlapFilter",
    "detector": "filters.detector:DetectorFilter",
    "guard": "filters.guard:GuardFilter",
}


def _no_files(name: str) -> str:
    raise FilterConfigError(f"no file {name!r}: there is no folder to look in")


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """The model that answers `context.judge`, as far as it is known when a policy is loaded.

    digest: stands for its weights; "" while it is not loaded.
    encode: the tokens of a text that goes on behind another; None while it is not loaded. Raises
        FilterConfigError.
    """

    digest: str = ""
    encode: Callable[[str], Sequence[int]] | None = None


def _no_tables() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Resources:
    """What filters may be handed. Policies name things; the settings say what they are.

    classifiers: text classifiers by name. detectors: finders of spans. guards: generative guards.
    judge: whether the engine can answer `context.judge`.
    rewind: whether the engine can take text back and write on, as rules that revise ask.
    model: what does.
    probes: names of the heads on hidden states whose scores the engine sends with its text.
    tables: the text of the policy's calibration tables; None if it has none. Raises
        FilterConfigError.
    cap: characters that a scan may hold before it reports an overflow.
    redaction_key: keys the hashes that policies put in the place of redacted text; empty for none.
    files: files of lists by name.
    read: the text of a list's file, by the name that a policy gives it. Raises FilterConfigError.
    kinds: more filter kinds, each as `module:attribute` or `path/to/file.py:attribute`.
    """

    classifiers: Mapping[str, Scorer] = field(default_factory=dict)
    detectors: Mapping[str, SpanFinder] = field(default_factory=dict)
    guards: Mapping[str, Guard] = field(default_factory=dict)
    judge: bool = False
    rewind: bool = False
    model: JudgeModel = JudgeModel()
    probes: frozenset[str] = frozenset()
    tables: Callable[[], str | None] = _no_tables
    cap: int = 4096
    kinds: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    read: Callable[[str], str] = _no_files
    redaction_key: bytes = field(default=b"", repr=False)


Factory = Callable[[str, object, Resources], Filter]


def kinds(resources: Resources) -> tuple[str, ...]:
    """Names of all filter kinds that there are."""
    brought = (point.name for point in entry_points(group=GROUP))
    return tuple(sorted({*BUILT_IN, *resources.kinds, *brought}))


def build(kind: str, name: str, options: object, resources: Resources) -> Filter:
    """Make the filter `name` of `kind`. Raises FilterConfigError."""
    target = _find(kind, resources)
    factory: Factory | None = getattr(target, "from_options", None)
    with _somebody_elses(kind, ours=kind in BUILT_IN):
        made: Filter = factory(name, options, resources) if factory else target(name, options)
    for attribute in ("name", "scope", "immediate", "open"):
        if not hasattr(made, attribute):
            raise FilterConfigError(f"kind {kind!r} makes objects without `{attribute}`")
    return made


def expand(kind: str, options: object, resources: Resources) -> object:
    """The options with all that they refer to written out, if the kind knows how (`expand`)."""
    spell_out: Callable[[object, Resources], object] | None = getattr(
        _find(kind, resources), "expand", None
    )
    with _somebody_elses(kind, ours=kind in BUILT_IN):
        return spell_out(options, resources) if spell_out else options


@contextmanager
def _somebody_elses(what: str, *, ours: bool = False) -> Iterator[None]:
    """Around code of which anything may come: a policy must not end the server.

    ours: it is a kind that ships, and what it raises by mistake is told as it is.
    """
    try:
        yield
    except FilterConfigError:
        raise
    except Exception as error:
        if ours:
            raise
        raise FilterConfigError(f"{what}: {_raised(error)}") from error


def _find(kind: str, resources: Resources) -> Any:
    if kind in BUILT_IN:
        return _load(BUILT_IN[kind])
    if kind in resources.kinds:
        return _load(resources.kinds[kind])
    for point in entry_points(group=GROUP, name=kind):
        with _somebody_elses(f"filter kind {kind!r} cannot be loaded"):
            return point.load()
    raise FilterConfigError(f"unknown kind {kind!r}: {', '.join(kinds(resources))}")


@cache
def _load(target: str) -> Any:
    """The object that `module:attribute` or `file.py:attribute` names. Raises FilterConfigError."""
    where, _, attribute = target.rpartition(":")
    with _somebody_elses(f"filter kind {target!r} cannot be loaded"):
        if not where.endswith(".py"):
            return getattr(import_module(where), attribute)
        spec = spec_from_file_location(Path(where).stem, where)
        assert spec is not None  # noqa: S101  (the name ends as a Python file's does)
        assert spec.loader is not None  # noqa: S101
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, attribute)


def _raised(error: Exception) -> str:
    """What was raised, and in which line of whose file."""
    return f"{type(error).__name__}: {error} ({place(error)})"
