"""The figures of a training: plots (PNG) and the tables of the model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.calibrate import RATES
from filters.builtin.training.examples import Examples
from filters.builtin.training.measures import (
    auc,
    average_precision,
    precision_recall,
    reliability,
)

Scored = tuple[Examples, Tensor]


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of a training.

    thresholds: by category and false-positive rate; none if there were too few ordinary texts.
    as_before: categories whose calibration is that of the classifier that training began with.
    kept: the calibration split with its scores. held: what was held out. before: scores of that by
    the classifier that training began with.
    """

    thresholds: Mapping[str, Mapping[str, float]]
    as_before: Sequence[str]
    kept: Scored
    held: Scored
    before: Tensor | None = None


def write_card(out: Path, card: Card) -> None:
    """Write `figures.md`, `reliability.png` and `precision-recall.png` into `out`.

    Without matplotlib there are no plots.
    """
    lines: list[str] = []
    if card.thresholds:
        lines += ["## Thresholds", "", *_threshold_table(card.thresholds), ""]
    if card.as_before:
        names = ", ".join(f"`{name}`" for name in card.as_before)
        lines += [f"Too few rows to calibrate anew, so as in what it began with: {names}.", ""]
    lines += ["## Held out, by source", "", *_by_source(card.held, card.before), ""]
    for title, scored in (("Calibration split", card.kept), ("Held out", card.held)):
        lines += [f"## {title}", "", *_table(scored), ""]
    (out / "figures.md").write_text("\n".join(lines), encoding="utf-8")
    try:
        plots = import_module("matplotlib.figure")
    except ImportError:
        return
    for name, draw in (("reliability", _reliability), ("precision-recall", _curves)):
        figure = plots.Figure(figsize=(12, 6), layout="constrained")
        _draw(figure, card.held, draw)
        figure.savefig(out / f"{name}.png", dpi=80)


def _by_source(held: Scored, before: Tensor | None) -> list[str]:
    """Of each source that was not made up, in any language: shares at 0.5, before and after."""
    examples, after = held
    head = ["source", "category", "harmful", "found before", "found"]
    head += ["harmless", "flagged before", "flagged"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- |" + " ---: |" * (len(head) - 2)]
    for source in sorted({one for one in examples.sources if not one.startswith("generated/")}):
        for place, category in enumerate(CATEGORIES):
            cells = [source, f"`{category}`"]
            for harmful in (True, False):
                rows = [
                    number
                    for number, row in enumerate(examples.rows)
                    if examples.sources[number] == source
                    and row.weights[place]
                    and (row.targets[place] >= 0.5) == harmful
                ]
                cells.append(str(len(rows)))
                cells += [_share(scores, rows, place) for scores in (before, after)]
            if any(cell not in {"0", "-"} for cell in cells[2:]):
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _share(scores: Tensor | None, rows: Sequence[int], place: int) -> str:
    if scores is None or not rows:
        return "-"
    return f"{(scores[list(rows), place] >= 0.5).float().mean():.3f}"


def _threshold_table(thresholds: Mapping[str, Mapping[str, float]]) -> list[str]:
    head = " | ".join(f"{100 * rate:g} %" for rate in RATES)
    lines = [f"| category | {head} |", "| --- |" + " --- |" * len(RATES)]
    for category, row in thresholds.items():
        cells = " | ".join(f"{row[str(rate)]:.3f}" for rate in RATES)
        lines.append(f"| `{category}` | {cells} |")
    return lines


def _known(
    scored: Scored, place: int, keep: Callable[[int], bool]
) -> tuple[list[float], list[bool]]:
    """Scores and labels of the rows whose label of one category is known."""
    examples, scores = scored
    rows = [n for n, row in enumerate(examples.rows) if row.weights[place] and keep(n)]
    return scores[rows, place].tolist(), [examples.rows[n].targets[place] >= 0.5 for n in rows]


def _table(scored: Scored) -> list[str]:
    lines = [
        (
            "| category | language | texts | harmful | AUC | average precision | recall at 0.5 | "
            "false alarms at 0.5 |"
        ),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    languages = scored[0].languages
    for place, category in enumerate(CATEGORIES):
        for language in ("en", "fr"):
            values, labels = _known(scored, place, lambda n: languages[n] == language)  # noqa: B023
            if not 10 <= sum(labels) < len(labels):
                continue
            hits = [v >= 0.5 for v, harmful in zip(values, labels, strict=True) if harmful]
            alarms = [v >= 0.5 for v, harmful in zip(values, labels, strict=True) if not harmful]
            lines.append(
                f"| `{category}` | {language} | {len(labels)} | {len(hits)} "
                f"| {auc(values, labels):.3f} | {average_precision(values, labels):.3f} "
                f"| {sum(hits) / len(hits):.3f} | {sum(alarms) / len(alarms):.3f} |"
            )
    return lines


def _draw(
    figure: Any, scored: Scored, draw: Callable[[Any, Sequence[float], Sequence[bool]], None]
) -> None:
    axes = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for place, (axis, category) in enumerate(zip(axes, CATEGORIES, strict=True)):
        values, labels = _known(scored, place, lambda _: True)
        axis.set_title(f"{category} ({sum(labels)} of {len(labels)})")
        if any(labels):
            draw(axis, values, labels)


def _reliability(axis: Any, values: Sequence[float], labels: Sequence[bool]) -> None:
    points = reliability(values, labels)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axis.plot([p[0] for p in points], [p[1] for p in points], marker="o")
    axis.set(xlabel="score", ylabel="share harmful")


def _curves(axis: Any, values: Sequence[float], labels: Sequence[bool]) -> None:
    precision, recall = precision_recall(values, labels)
    axis.plot(recall, precision)
    axis.set(xlabel="recall", ylabel="precision")
