"""What dashboards and alerts ask of Prometheus.

As a module, prints a dashboard's queries as a file of recording rules, for promtool to parse.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)?\s*\{([^{}]*)\}")
_WORD = re.compile(r"(?<![\w.:$])([A-Za-z_:][A-Za-z0-9_:]*)(?!\s*\(|[\w:])")
_DURATION = re.compile(r"\[[^\]]*\]|\boffset\s+[\w$]+")
_OPERATORS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "by", "without", "on"}


@dataclass(frozen=True)
class Asked:
    """What one expression names. selected: labels by metric; grouped: of the result's groups."""

    metrics: frozenset[str]
    selected: Mapping[str, frozenset[str]]
    grouped: frozenset[str]


def asked(expression: str) -> Asked:
    """The metrics and labels in a PromQL expression. Not a parser: promtool is."""
    bare = _DURATION.sub("", _STRING.sub('""', expression))
    selected: dict[str, frozenset[str]] = {}
    for name, inside in _SELECTOR.findall(bare):
        labels = frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
        selected[name] = selected.get(name, frozenset()) | labels
    grouped = {g for inside in _GROUPING.findall(bare) for g in re.findall(r"\w+", inside)}
    rest = _GROUPING.sub(" ", _SELECTOR.sub(r" \1 ", bare))
    metrics = {word for word in _WORD.findall(rest) if word.lower() not in _OPERATORS}
    return Asked(frozenset(metrics), selected, frozenset(grouped))


def problems(expression: str, known: Mapping[str, frozenset[str]]) -> list[str]:
    """Names in `expression` that are not among the `known` metrics and their labels."""
    wants = asked(expression)
    found = [f"no metric {name}" for name in sorted(wants.metrics - set(known))]
    for name, labels in wants.selected.items():
        found += [f"{name} has no label {bad}" for bad in sorted(labels - known.get(name, labels))]
    there = frozenset[str]().union(*(known.get(name, frozenset()) for name in wants.metrics))
    found += [f"nothing here has the label {bad}" for bad in sorted(wants.grouped - there)]
    return found


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All panels, those in folded rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Panel titles with their expressions."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def as_rules(dashboard: Mapping[str, Any]) -> dict[str, Any]:
    """The queries as recording rules, Grafana's own variables filled in."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression) in enumerate(queries(dashboard))
    ]
    for rule in rules:
        rule["expr"] = rule["expr"].replace("$__range", "6h")
    return {"groups": [{"name": "dashboard", "rules": rules}]}


if __name__ == "__main__":  # JSON is YAML
    json.dump(as_rules(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
