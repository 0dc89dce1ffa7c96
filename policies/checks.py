"""What is wrong with a policy's rules, in themselves and with the filters that they ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from filters.registry import Resources
from policies.chain import Link
from policies.document import Document
from policies.errors import Problem
from policies.links import meant
from policies.schema import PolicySpec

PROBED = (
    "a probe reads the model as it writes: it serves rules of output that redact, revise or block, "
    "hold the text, and are enforced"
)
#: Keys of rules of input and tools, and why rules of output have none.
IDLE = {
    "say": "`say` is told where a prompt is blocked; an answer just ends there",
    "roles": "`roles` choose messages of a prompt; an answer is always the assistant's",
}
#: Words of `when`; a filter of that name could not be asked.
WORDS = ("at", "except")
UNNAMED = "`at` and `except` are words of `when`: name this filter otherwise"


def problems_of(
    spec: PolicySpec, document: Document, links: Mapping[str, Link], resources: Resources
) -> Iterator[Problem]:
    """links: of the filters that could be made."""
    for name in WORDS:
        if name in spec.filters:
            yield document.problem(("filters", name), UNNAMED)
    yield from _rule_problems(spec, document, links)
    yield from _idle_problems(spec, document)
    yield from _operator_problems(spec, document, resources)
    yield from _revise_problems(spec, document, resources)


def warnings_of(
    spec: PolicySpec, document: Document, links: Mapping[str, Link]
) -> Iterator[Problem]:
    """What loads, and should be looked at all the same."""
    yield from _uncalibrated(spec, document, links)
    yield from _joining(spec, document)


def _rule_problems(
    spec: PolicySpec, document: Document, links: Mapping[str, Link]
) -> Iterator[Problem]:
    seen: set[str] = set()
    for part, number, rule in spec.rules():
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
    for part, number, rule in spec.rules():
        if part == "output":
            for key, why in IDLE.items():
                if key in rule.model_fields_set:
                    yield document.problem((part, number, key), why)
        if part == "tools" and rule.roles and not {"assistant", "tool"} & {*rule.roles}:
            yield document.problem(
                (part, number, "roles"),
                "rules of tools read calls (`assistant`) and results (`tool`), and no other role",
            )


def _operator_problems(
    spec: PolicySpec, document: Document, resources: Resources
) -> Iterator[Problem]:
    for part, number, rule in spec.rules():
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
    for part, number, rule in spec.rules():
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


def _uncalibrated(
    spec: PolicySpec, document: Document, links: Mapping[str, Link]
) -> Iterator[Problem]:
    """Rules that end an answer by a judge whose probabilities nobody has measured."""
    for part, number, rule in spec.rules():
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
    for part, number, rule in spec.rules():
        if rule.with_ and rule.with_.text is not None and not rule.with_.text.strip():
            yield document.problem(
                (part, number, "with"),
                f"warning: `{rule.id}` leaves nothing in the place of what it cuts: what stands on "
                "either side joins, and is not read again; put in a word that shows",
            )
