"""YAML -> Policy. Says all that is wrong with a file at once, each as `file:line:column: what`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from filters.calibration import parse_tables
from filters.errors import FilterConfigError, no_text, quoted
from filters.registry import Resources
from filters.types import Stage
from policies import links as named
from policies.chain import Link
from policies.document import Document, place_of
from policies.errors import PolicyInvalid, Problem
from policies.files import Files
from policies.gates import read_gates
from policies.links import Source, meant
from policies.operators import TAG, Fixed, Hash, Mask, Operator
from policies.plan import Policy
from policies.rules import Rule
from policies.schema import PolicySpec, RuleSpec, With
from policies.types import Action, Steer

LIBRARY = named.LIBRARY
PROBED = (
    "a probe reads the model as it writes: it serves rules of output that redact, revise or block, "
    "hold the text, and are enforced"
)
EMPTY = "the file is empty; a policy begins with `policy: NAME`"
#: Keys of rules of input and tools, and why rules of output have none.
IDLE = {
    "say": "`say` is told where a prompt is blocked; an answer just ends there",
    "roles": "`roles` choose messages of a prompt; an answer is always the assistant's",
}
#: Words of `when`; a filter of that name could not be asked.
WORDS = ("at", "except")
UNNAMED = "`at` and `except` are words of `when`: name this filter otherwise"
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
    problems += [
        document.problem(("filters", name), UNNAMED) for name in WORDS if name in spec.filters
    ]
    problems += _rule_problems(spec, document, links)
    problems += _idle_problems(spec, document)
    asked, more = _asked(spec, document, sources)
    problems += more
    problems += _operator_problems(spec, document, resources)
    problems += _revise_problems(spec, document, resources)
    if problems:
        raise PolicyInvalid(sorted(problems, key=lambda p: (p.line, p.column)))
    gated = {rule.id: gates.get(rule.when.filter) for _, _, rule in _rules(spec)}
    links = {name: replace(link, gate=gates.get(name)) for name, link in links.items()}
    links |= {link.filter.name: replace(link, gate=gated[rule]) for rule, link in asked.items()}
    policy = _policy(spec, links, asked, source, digest.hexdigest()[:12], resources.redaction_key)
    warnings = (*_uncalibrated(spec, document, links), *_joining(spec, document))
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
        problems = [document.problem(*_explained(e)) for e in error.errors()]
        raise PolicyInvalid(sorted(problems, key=lambda p: (p.line, p.column))) from error


def _explained(error: Any) -> tuple[tuple[str | int, ...], str]:
    """The place and a sentence for one of pydantic's errors."""
    path = tuple(error["loc"])
    match error["type"]:
        case "extra_forbidden" if path[-1] == "<<":
            return path, "YAML 1.2 merges nothing with `<<`; write out what it stands for"
        case "extra_forbidden":
            return path, f"unknown key {path[-1]!r}{meant(str(path[-1]), _keys_at(path))}"
        case "missing":
            return path, f"`{path[-1]}` is missing"
        case "literal_error":
            close = meant(str(error["input"]), error["ctx"]["expected"].split("'")[1::2])
            return path, f"{error['input']!r} is none of {error['ctx']['expected']}{close}"
        case "string_pattern_mismatch":
            return path, f"{error['input']!r}: names are lower-case letters, digits, - _ and ."
        case "model_type":
            return path, "expected a mapping"
        case "dict_type":
            return path, _mapping_at(path)
        case "value_error":
            inner = error["ctx"]["error"]
            return (*path, *getattr(inner, "path", ())), str(inner)
    return path, _value_told(error, path)


def _mapping_at(path: tuple[str | int, ...]) -> str:
    if path[0] == "filters":
        return "expected {kind: options}" if path[1:] else "expected {name: {kind: options}}"
    return f"`{path[-1]}` takes text, or language → text"


def _value_told(error: Any, path: tuple[str | int, ...]) -> str:
    """A sentence for a value that is not what its key takes."""
    key, given, more = path[-1], error["input"], error.get("ctx", {})
    if path[-2:-1] == ("steer",):  # a note in one language
        key = "steer"
    match error["type"]:
        case "string_type":
            return no_text(given) or "expected text"
        case "string_too_short":
            return f"`{key}` is empty"
        case "string_too_long":
            return f"`{key}` has at most {more['max_length']} characters"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return f"`{key}` is a whole number, not {quoted(given)}"
        case "greater_than_equal":
            return f"`{key}` is at least {more['ge']}, not {quoted(given)}"
        case "less_than_equal":
            return f"`{key}` is at most {more['le']}, not {quoted(given)}"
    return str(error["msg"])


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    if len(path) == 1:
        return [field.alias or name for name, field in PolicySpec.model_fields.items()]
    if path[0] == "hold":
        return list(PolicySpec.model_fields["hold"].annotation.model_fields)  # type: ignore[union-attr]
    if path[-2] == "examples":
        return ["hit", "pass"]
    if path[-2] == "with":
        return list(With.model_fields)
    return [field.alias or name for name, field in RuleSpec.model_fields.items()]


def _rule_problems(
    spec: PolicySpec, document: Document, links: Mapping[str, Link]
) -> Iterator[Problem]:
    seen: set[str] = set()
    for part, number, rule in _rules(spec):
        path = (part, number)
        if rule.id in seen:
            yield document.problem((*path, "id"), f"the id {rule.id!r} stands twice")
        seen.add(rule.id)
        if rule.release == "signal" and (part != "output" or rule.do not in {"flag", "block"}):
            yield document.problem(
                (*path, "release"), "`signal` is for rules of output that flag or block"
            )
        name = rule.when.filter
        if name not in spec.filters:
            close = meant(name, list(spec.filters)) if spec.filters else ""
            yield document.problem((*path, "when", name), f"no filter {name!r}{close}")
        elif name in links:
            link = links[name].filter
            known = getattr(link, "categories", None)
            for category in rule.when.categories:
                if known is not None and category not in known:
                    close = meant(category, sorted(known))
                    yield document.problem(
                        (*path, "when", name), f"{name} has no category {category!r}{close}"
                    )
            if getattr(link, "needs_signals", False):
                acts = rule.do not in {"allow", "flag"} and rule.release == "hold"
                if part != "output" or not acts or spec.mode != "enforce":
                    yield document.problem((*path, "when", name), PROBED)


def _idle_problems(spec: PolicySpec, document: Document) -> Iterator[Problem]:
    """Keys that would do nothing, or switch their rule off, where they stand."""
    for part, number, rule in _rules(spec):
        if part == "output":
            for key, why in IDLE.items():
                if key in rule.model_fields_set:
                    yield document.problem((part, number, key), why)
        if part == "tools" and rule.roles and not {"assistant", "tool"} & {*rule.roles}:
            yield document.problem(
                (part, number, "roles"),
                "rules of tools read calls (`assistant`) and results (`tool`), and no other role",
            )


def _asked(
    spec: PolicySpec, document: Document, sources: Mapping[str, Source]
) -> tuple[dict[str, Link], list[Problem]]:
    """By a rule's id, the filter on the views that the rule asks for."""
    asked: dict[str, Link] = {}
    problems: list[Problem] = []
    for part, number, rule in _rules(spec):
        if rule.views is None or rule.when.filter not in sources:
            continue
        try:
            asked[rule.id] = sources[rule.when.filter].on(rule.views)
        except FilterConfigError as error:
            at = error.path if error.path[:1] == ("views",) else ("views",)
            problems.append(document.problem((part, number, *at), str(error)))
    return asked, problems


def _operator_problems(
    spec: PolicySpec, document: Document, resources: Resources
) -> Iterator[Problem]:
    for part, number, rule in _rules(spec):
        if rule.with_ is None:
            continue
        if rule.do != "redact" and not (rule.do == "revise" and rule.then == "redact"):
            yield document.problem((part, number, "with"), "`with` goes with `do: redact`")
        if rule.with_.hash is not None and not resources.redaction_key:
            yield document.problem(
                (part, number, "with", "hash"),
                "`hash` needs a key: set `redaction-key` in the settings",
            )


def _revise_problems(
    spec: PolicySpec, document: Document, resources: Resources
) -> Iterator[Problem]:
    for part, number, rule in _rules(spec):
        if rule.do != "revise":
            for key in ("steer", "place", "tries", "then"):
                if key in rule.model_fields_set:
                    yield document.problem((part, number, key), f"`{key}` goes with `do: revise`")
        elif part != "output":
            what = "prompts" if part == "input" else "tool calls and their results"
            yield document.problem(
                (part, number, "do"),
                f"`revise` is for answers, not for {what}: use block or redact",
            )
        elif not resources.rewind:
            yield document.problem(
                (part, number, "do"),
                "`revise` needs an engine that can take text back, or continue an answer; "
                "this one can do neither: use block or redact",
            )


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


def _uncalibrated(
    spec: PolicySpec, document: Document, links: Mapping[str, Link]
) -> Iterator[Problem]:
    """Rules that end an answer by a judge whose probabilities nobody has measured."""
    for part, number, rule in _rules(spec):
        made = links[rule.when.filter].filter
        if rule.do in {"block", "revise"} and getattr(made, "calibrated", True) is False:
            yield document.problem(
                (part, number, "do"),
                f"warning: `{rule.id}` acts on {made.name}, which is not calibrated: what "
                f"{rule.when.at:g} is worth differs from model to model; see "
                "`gardefou critique calibrate`",
            )


def _joining(spec: PolicySpec, document: Document) -> Iterator[Problem]:
    """Redactions that leave nothing to be seen: the text on either side becomes one."""
    for part, number, rule in _rules(spec):
        if rule.with_ and rule.with_.text is not None and not rule.with_.text.strip():
            yield document.problem(
                (part, number, "with"),
                f"warning: `{rule.id}` leaves nothing in the place of what it cuts: what stands on "
                "either side joins, and is not read again; put in a word that shows",
            )


def _rules(spec: PolicySpec) -> Iterator[tuple[str, int, RuleSpec]]:
    for part in ("input", "output", "tools"):
        for number, rule in enumerate(getattr(spec, part)):
            yield part, number, rule


def _policy(
    spec: PolicySpec,
    links: Mapping[str, Link],
    asked: Mapping[str, Link],
    source: str,
    version: str,
    key: bytes,
) -> Policy:
    made: dict[str, list[Rule]] = {"input": [], "output": [], "tools": []}
    for part, _, rule in _rules(spec):
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
