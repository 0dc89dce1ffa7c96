"""YAML -> Policy. Says all that is wrong with a file at once, each as `file:line:column: what`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from filters.calibration import parse_tables
from filters.errors import FilterConfigError
from filters.registry import Resources
from filters.types import Stage
from policies import links as named
from policies.chain import Link
from policies.checks import problems_of, warnings_of
from policies.document import Document, place_of
from policies.errors import PolicyInvalid, Problem
from policies.explaining import explained
from policies.files import Files
from policies.gates import read_gates
from policies.links import Source
from policies.operators import TAG, Fixed, Hash, Mask, Operator
from policies.plan import Policy
from policies.rules import Rule
from policies.schema import PolicySpec, RuleSpec, With
from policies.types import Action, Steer

LIBRARY = named.LIBRARY
EMPTY = "the file is empty; a policy begins with `policy: NAME`"
#: Beside `POLICY.yaml`, `POLICY` and this: what a judge's probabilities are worth.
TABLES = ".calibration.json"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy with the spec it was made from; the spec holds the rules' examples.

    warnings: what loads, and should be looked at all the same.
    """

    policy: Policy
    spec: PolicySpec
    document: Document
    warnings: tuple[Problem, ...] = ()


def library() -> Mapping[str, Path]:
    """The shipped policies by name."""
    return {path.stem: path for path in sorted(LIBRARY.glob("*.yaml"))}


def load(where: str | Path, resources: Resources | None = None) -> Loaded:
    """Load a policy from a file, or a shipped one by its name. Raises PolicyInvalid."""
    path = library().get(str(where), Path(where))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig", "ignore")
        raise PolicyInvalid([Problem(str(where), *place_of(before), "not UTF-8")]) from error
    except OSError as error:
        message = error.strerror or "cannot be read"
        if isinstance(error, FileNotFoundError):
            message += f"; shipped policies are {', '.join(library())}"
        raise PolicyInvalid([Problem(str(where), 1, 1, message)]) from error
    return parse(text, str(path), resources, path.parent)


def parse(
    text: str, source: str, resources: Resources | None = None, folder: Path | None = None
) -> Loaded:
    """Make a policy of YAML text. Raises PolicyInvalid.

    source: names it in problems. folder: where files of lists may lie that it names.
    """
    document = Document(text, source)
    spec = _spec(document)
    resources = resources or Resources()
    problems: list[Problem] = []
    digest = sha256(text.encode())
    files = Files(resources.files, folder, digest.update)
    beside = f"{Path(source).stem}{TABLES}"
    tables = partial(_tables, files, beside)
    resources = replace(resources, cap=spec.hold.characters, read=files.read, tables=tables)
    sources: dict[str, Source] = {}
    for name, options in spec.filters.items():
        try:
            sources[name] = Source(name, options, spec, resources, digest.update)
        except FilterConfigError as error:
            problem = document.problem(("filters", name, *error.path), str(error))
            # Each critique reads the tables; what is wrong with them is said once.
            of_tables = problem.message.startswith(f"{beside}: ")
            if not of_tables or all(p.message != problem.message for p in problems):
                problems.append(problem)
    links = {name: source.link for name, source in sources.items()}
    made = {name: link.filter for name, link in links.items()}
    gates, found = read_gates(spec.filters, document, made)
    problems += found
    asked, found = _asked(spec, document, sources)
    problems += found
    problems += problems_of(spec, document, links, resources)
    if problems:
        raise PolicyInvalid(sorted(problems, key=lambda p: (p.line, p.column)))
    gated = {rule.id: gates.get(rule.when.filter) for _, _, rule in spec.rules()}
    links = {name: replace(link, gate=gates.get(name)) for name, link in links.items()}
    links |= {link.filter.name: replace(link, gate=gated[rule]) for rule, link in asked.items()}
    policy = _policy(spec, links, asked, source, digest.hexdigest()[:12], resources.redaction_key)
    warnings = tuple(warnings_of(spec, document, links))
    return Loaded(replace(policy, files=tuple(files.used)), spec, document, warnings)


def _tables(files: Files, name: str) -> str | None:
    """The text of the calibration tables beside the policy. Raises FilterConfigError, naming it."""
    text = files.read_if_there(name)
    try:
        if text is not None:
            parse_tables(text)
    except FilterConfigError as error:
        raise FilterConfigError(f"{name}: {error}") from error
    return text


def _spec(document: Document) -> PolicySpec:
    if document.data is None:
        raise PolicyInvalid([document.problem((), EMPTY)])
    try:
        return PolicySpec.model_validate(document.data)
    except ValidationError as error:
        problems = [document.problem(*explained(e)) for e in error.errors()]
        raise PolicyInvalid(sorted(problems, key=lambda p: (p.line, p.column))) from error


def _asked(
    spec: PolicySpec, document: Document, sources: Mapping[str, Source]
) -> tuple[dict[str, Link], list[Problem]]:
    """By a rule's id, the filter on the views that the rule asks for."""
    asked: dict[str, Link] = {}
    problems: list[Problem] = []
    for part, number, rule in spec.rules():
        if rule.views is None or rule.when.filter not in sources:
            continue
        try:
            asked[rule.id] = sources[rule.when.filter].on(rule.views)
        except FilterConfigError as error:
            at = error.path if error.path[:1] == ("views",) else ("views",)
            problems.append(document.problem((part, number, *at), str(error)))
    return asked, problems


def _operator(asked: With | None, key: bytes) -> Operator:
    if asked is None:
        return TAG
    if asked.mask is not None:
        return Mask(asked.mask)
    if asked.hash is not None:
        return Hash(asked.hash, key)
    return Fixed(asked.text) if asked.text is not None else TAG


def _steer(rule: RuleSpec) -> Steer | None:
    if rule.do != "revise":
        return None
    return Steer(rule.steer, rule.place, rule.tries, Action[rule.then.upper()])


def _policy(
    spec: PolicySpec,
    links: Mapping[str, Link],
    asked: Mapping[str, Link],
    source: str,
    version: str,
    key: bytes,
) -> Policy:
    made: dict[str, list[Rule]] = {"input": [], "output": [], "tools": []}
    for part, _, rule in spec.rules():
        made[part].append(
            Rule(
                id=rule.id,
                filter=asked[rule.id].filter.name if rule.id in asked else rule.when.filter,
                action=Action[rule.do.upper()],
                categories=frozenset(rule.when.categories) or None,
                at=rule.when.at,
                but=tuple(glob.lower() for glob in rule.when.but),
                say=rule.say,
                roles=frozenset(rule.roles),
                signal=rule.release == "signal",
                operator=_operator(rule.with_, key),
                steer=_steer(rule),
            )
        )
    # A tool call is an answer too, and a tool's result a prompt: `tools` adds to their rules.
    # A call leaves whole or not at all, so that nothing of it is written anew.
    said = [rule.given_up for rule in made["output"]]
    stages: dict[Stage, tuple[Rule, ...]] = {
        "input": tuple(made["input"]),
        "output": tuple(made["output"]),
        "tool_arguments": (*made["tools"], *said),
        "tool_result": (*made["tools"], *made["input"]),
    }
    return Policy(
        name=spec.policy,
        version=version,
        mode=spec.mode,
        source=source,
        links=links,
        stages=stages,
        overflow=spec.hold.then,
        history=spec.history,
    )
