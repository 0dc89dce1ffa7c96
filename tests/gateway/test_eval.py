"""`gardefou eval`: rows read with care, measures as scikit-learn has them, texts hidden."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from filters.labelled import Row, read
from gateway.cli import main
from gateway.evaluation.screening import OVERALL, Said, truth

pytest.importorskip("sklearn")  # the extra `eval`
pytest.importorskip("matplotlib")
measures = pytest.importorskip("gateway.evaluation.measures")
tables = pytest.importorskip("gateway.evaluation.report")

POLICY = """
policy: p
filters: {words: {regex: {insult: 'idiot|andouille', weapon: 'gun'}}}
input:
  - {id: i, when: {words: insult}, do: block}
  - {id: w, when: {words: weapon}, do: allow}
"""
ROWS = [
    {"text": "You idiot.", "labels": {"insult": 1.0}, "lang": "en", "source": "a"},
    {"text": "You fool.", "labels": {"insult": 0.7}, "lang": "en", "source": "a"},
    {"text": "Quelle andouille !", "labels": {"insult": 1, "unsafe": 1}, "lang": "fr"},
    {"text": "Une andouille grillée.", "labels": {"insult": 0.0}, "lang": "fr", "source": "a"},
    {"text": "A gun idiot", "labels": {"weapon": 1.0}, "lang": "en", "source": "a"},
    {"text": "Bread.", "labels": {"insult": 0.0, "unsafe": 0.0}, "lang": "en", "source": "kind"},
    {"text": "An idiot wind.", "labels": {"unsafe": 0.0}, "lang": "en", "source": "kind"},
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (policy := tmp_path / "p.yaml").write_text(POLICY, encoding="utf-8")
    data = tmp_path / "rows.jsonl.gz"
    data.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    return policy, data


def run(*words: str | int | Path) -> Any:
    return CliRunner().invoke(main, ["eval", *map(str, words)])


def group(report: Any, category: str, lang: str = "all") -> Any:
    [one] = [g for g in report["groups"] if (g["category"], g["lang"]) == (category, lang)]
    return one


def test_it_measures_what_is_known(files: tuple[Path, Path]) -> None:
    policy, data = files
    ran = run("--policy", policy, "--json", "--data", data, "--resamples", 50)
    assert ran.exit_code == 0, ran.stderr
    report = json.loads(ran.stdout)
    insult = group(report, "insult")
    assert (insult["rows"], insult["positive"]) == (5, 3)  # what is not labelled is masked
    assert insult["precision"]["value"] == pytest.approx(2 / 3)
    assert insult["recall"]["value"] == pytest.approx(2 / 3)
    assert insult["recall"]["low"] <= 2 / 3 <= insult["recall"]["high"]
    assert group(report, "insult", "fr")["recall"]["value"] == 1.0
    # `allow` flags nothing, and the score is there all the same.
    weapon = group(report, "weapon")
    assert weapon["recall"]["value"] == 0.0
    assert weapon["auc"]["value"] is None  # one class alone
    assert report["benign"] == [
        {"source": "kind", "rows": 2, "flagged": 1, "rate": report["benign"][0]["rate"]}
    ]
    assert report["benign"][0]["rate"]["value"] == 0.5
    assert set(report["latency_ms"]) == {"p50", "p90", "p99"}
    assert report["rows"] == len(ROWS)


def test_texts_are_hidden_unless_asked_for(files: tuple[Path, Path]) -> None:
    policy, data = files
    asked = ("--policy", policy, "--data", data, "--resamples", 0)
    for words in (asked, (*asked, "--json")):
        hidden, shown = run(*words), run(*words, "--show-text")
        assert hidden.exit_code == shown.exit_code == 0
        assert "idiot wind" not in hidden.stdout
        assert f"{data}:7" in hidden.stdout.replace("\n", "")
        assert "idiot wind" in shown.stdout


def test_no_figure_is_cut_off_in_80_columns() -> None:
    value = measures.Value(0.95, 0.912, 0.988)
    source = "A set of behaviours (transcribed from somebody's repository at that commit)"
    report = measures.Report(
        rows=20646,
        faults={},
        groups=(
            measures.Group("self_harm", "all", 20646, 10180, value, value, value, value, value),
        ),
        benign=(measures.Benign(source, 12345, 1234, value),),
        latency_ms={"p50": 1.0},
    )
    told = io.StringIO()
    tables.show(report, Console(width=80, file=told), show_text=True)
    assert "…" not in told.getvalue()
    assert "95.00 ±3.80 %" in told.getvalue()


def test_plots_are_pictures(files: tuple[Path, Path], tmp_path: Path) -> None:
    policy, data = files
    ran = run("--policy", policy, "--data", data, "--plots", tmp_path / "plots", "--resamples", 0)
    assert ran.exit_code == 0, ran.output
    made = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in made] == ["precision-recall.png", "reliability.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_rows_that_are_none_are_told_with_their_line(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = [
        b'{"text": "well", "labels": {}}',
        b"nonsense",
        b"",
        b'{"text": 3, "labels": {}}',
        b'{"text": "secret", "labels": {"x": 2}}',
        b"\xff\xfe",
        b'["text"]',
        b'{"labels": {}}',
    ]
    bad.write_bytes(b"\n".join(lines))
    ran = run("--policy", files[0], "--data", files[1], bad, "--json", "--resamples", 0)
    assert ran.exit_code == 1
    told = [line.split(": ", 1) for line in ran.stderr.splitlines() if ": " in line]
    places = [where for where, _ in told if where.startswith(str(bad))]
    assert places == [f"{bad}:{n}" for n in (2, 4, 5, 6, 7, 8)]
    assert "secret" not in ran.stderr
    assert json.loads(ran.stdout)["rows"] == len(ROWS) + 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "missing.jsonl"], "No such file"),
        (["--policy", "missing.yaml"], "shipped policies are"),
    ],
)
def test_what_is_not_there(files: tuple[Path, Path], words: list[str], said: str) -> None:
    ran = run("--data", files[1], *words)
    assert ran.exit_code != 0
    assert said in ran.stderr


def test_a_torn_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.gz"
    torn.write_bytes(files[1].read_bytes()[:-20])
    ran = run("--data", torn)
    assert ran.exit_code == 1
    assert "torn.gz" in ran.stderr


def test_a_limit_is_of_each_file(files: tuple[Path, Path]) -> None:
    assert len(read(files[1], limit=3).rows) == 3


def made_up(count: int, seed: int) -> list[Said]:
    random = Random(seed)
    said = []
    for n in range(count):
        score = round(random.random(), 1)  # with ties
        row = Row(f"f:{n}", "t", {"x": float(random.random() < score)}, "en", "s")
        hit = frozenset({"x"} if score >= 0.5 else ())
        said.append(Said(row, {"x": score}, hit, bool(hit), 0.001))
    return said


@pytest.mark.parametrize("seed", range(5))
def test_resampled_ranks_are_scikit_learn_s(seed: int) -> None:
    """One resample, drawn the same way, against scikit-learn on the rows themselves."""
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    true, scores, _ = measures.arrays(made_up(60, seed), "x")
    [ap], [auc] = measures._resampled_ranks(true, scores, 1, np.random.default_rng(seed))
    order = np.argsort(-scores, kind="stable")
    drawn = order[np.random.default_rng(seed).integers(0, len(true), len(true))]
    assert ap == pytest.approx(average_precision_score(true[drawn], scores[drawn]))
    assert auc == pytest.approx(roc_auc_score(true[drawn], scores[drawn]))


def _x(report: Any) -> Any:
    return next(g for g in report.groups if (g.category, g.lang) == ("x", "all"))


def test_intervals_hold_the_value_and_shrink_with_more_rows() -> None:
    few, many = (_x(measures.measure(made_up(n, 1))) for n in (50, 1000))
    for name in ("precision", "recall", "f1", "average_precision", "auc"):
        small, large = getattr(few, name), getattr(many, name)
        assert small.low <= small.value <= small.high
        assert large.high - large.low < small.high - small.low


def test_what_a_row_says_of_everything_harmful() -> None:
    for labels, wanted in (
        ({"hate": 1.0}, True),
        ({"hate": 0.0}, None),  # it may be harmful otherwise
        ({"hate": 1.0, "unsafe": 0.0}, False),
        ({}, None),
    ):
        assert truth(Row("f:1", "t", labels), OVERALL) is wanted
