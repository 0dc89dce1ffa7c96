"""Dashboards and alerts ask for metrics that there are, by labels that these have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.dashboard import asked, panels, problems, queries
from tests.support.metrics import series, touched

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
#: Added by Prometheus as it scrapes.
TARGET = frozenset({"job", "instance"})


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.fixture(scope="module")
def known() -> Mapping[str, frozenset[str]]:
    ours = {name: labels | TARGET for name, labels in series(touched()).items()}
    return ours | {"up": TARGET}


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.name)
def dashboard(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


def test_every_metric_has_a_series(known: Mapping[str, frozenset[str]]) -> None:
    families = {family.name for family in touched().registry.collect()}
    missing = {name for name in families if not any(sample.startswith(name) for sample in known)}
    assert not missing
    assert known["gardefou_decisions_total"] >= {"policy", "stage", "filter", "category", "action"}
    assert "le" in known["gardefou_filter_seconds_bucket"]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum by (stage) (rate(gardefou_verdicts_total[5m]))", []),
        ("sum by (colour) (rate(gardefou_verdicts_total[5m]))", ["label colour"]),
        ("rate(gardefou_verdict_total[5m])", ["no metric gardefou_verdict_total"]),
        ('gardefou_verdicts_total{colour=~"le, (x)"}', ["no label colour"]),
        ("histogram_quantile(0.5, sum by (le) (rate(gardefou_filter_seconds[5m])))", ["no metric"]),
        ("gardefou_ready unless gardefou_ready offset 5m == 0", []),
        ("gardefou_ready > on () group_left () 0.2 * sum(gardefou_redy)", ["gardefou_redy"]),
    ],
)
def test_problems_are_seen(
    expression: str, wrong: list[str], known: Mapping[str, frozenset[str]]
) -> None:
    found = " ".join(problems(expression, known))
    assert all(part in found for part in wrong)
    assert bool(found) == bool(wrong), found


def test_dashboard_asks_for_what_there_is(
    dashboard: Any, known: Mapping[str, frozenset[str]]
) -> None:
    found = [
        f"{title}: {problem}"
        for title, expression in queries(dashboard)
        for problem in problems(expression, known)
    ]
    assert not found
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(
                r"label_values\((\w+), (\w+)\)", variable["definition"]
            ).groups()  # type: ignore[union-attr]
            assert label in known[metric]
            assert variable["query"]["query"] == variable["definition"]


def test_legends_show_labels_that_the_query_keeps(dashboard: Any) -> None:
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert shown <= asked(target["expr"]).grouped, panel["title"]


def test_dashboard_shows_every_metric(dashboard: Any) -> None:
    """What is measured is seen: no metric of the gateway is left out."""
    drawn = " ".join(expression for _, expression in queries(dashboard))
    families = {family.name for family in touched().registry.collect()}
    assert not {name for name in families if name not in drawn}


def test_panels_have_a_source_and_a_place_of_their_own(dashboard: Any) -> None:
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in panels(dashboard)]
    assert len(numbers) == len(set(numbers))
    for panel in panels(dashboard):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"].strip("${}") in variables
            assert panel["description"]


def test_alerts_ask_for_what_there_is(known: Mapping[str, frozenset[str]]) -> None:
    alerts = [rule for group in yaml(DEPLOY / "alerts.yml")["groups"] for rule in group["rules"]]
    for rule in alerts:
        assert not problems(rule["expr"], known), rule["alert"]
        told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        kept = frozenset().union(*(known[name] for name in asked(rule["expr"]).metrics))
        assert told <= kept, rule["alert"]
    tried = {
        case["alertname"]
        for test in yaml(DEPLOY / "alerts.test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in alerts}
