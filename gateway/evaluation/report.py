"""A report as tables on a terminal, as JSON, and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from gateway.evaluation.measures import ALL, Report, Value, arrays
from gateway.evaluation.screening import Said


def as_json(report: Report, *, show_text: bool) -> dict[str, Any]:
    """The report as JSON takes it; texts only if asked."""
    written = asdict(report)
    if not show_text:
        for wrong in written["worst"]:
            del wrong["text"]
    return written


def show(report: Report, console: Console, *, show_text: bool) -> None:
    """Print the tables; `±` is half of the 95 % interval."""
    groups = _table("category", "lang", "rows", "true", "prec.", "recall", "F1", "AP", "AUC")
    for g in report.groups:
        if not g.positive:
            continue  # nothing to find; false alarms are told by source
        # Narrow enough for 80 columns; the other intervals are in the JSON.
        shown = [_shown(Value(value.value)) for value in (g.precision, g.recall, g.f1)]
        shown += [_shown(value) for value in (g.average_precision, g.auc)]
        groups.add_row(g.category, g.lang, str(g.rows), str(g.positive), *shown)
    console.print(groups)
    if report.benign:
        benign = _table("harmless source", "rows", "flagged", "rate")
        for b in report.benign:
            benign.add_row(
                escape(b.source), str(b.rows), str(b.flagged), _shown(b.rate, percent=True)
            )
        console.print(benign)
    took = ", ".join(f"{name} {ms:.1f} ms" for name, ms in report.latency_ms.items())
    console.print(f"{report.rows} texts; of one text: {took}", highlight=False)
    for name, count in report.faults.items():
        console.print(f"{escape(name)} failed on {count} texts", style="red", highlight=False)
    if report.worst:
        console.print("worst errors:")
    for w in report.worst:
        text = f"  {_line(w.text)}" if show_text else ""
        line = f"  {w.where}  {w.kind} {w.category} {w.score:.3f}{text}"
        console.print(escape(line), soft_wrap=True, highlight=False)


def plot(said: Sequence[Said], report: Report, folder: Path) -> list[Path]:
    """Precision and recall, and reliability, of each category: PNG files. Raises OSError."""
    from matplotlib.figure import Figure  # not needed for the tables

    folder.mkdir(parents=True, exist_ok=True)
    wanted = [g for g in report.groups if g.lang == ALL and g.auc.value is not None]
    curves, reliability = Figure(figsize=(7, 6)), Figure(figsize=(7, 6))
    left, right = curves.subplots(), reliability.subplots()
    for group in wanted:
        true, scores, _ = arrays(said, group.category)
        precision, recall, _ = precision_recall_curve(true, scores)
        ap = group.average_precision.value
        left.plot(recall, precision, label=f"{group.category} (AP {ap:.2f})")
        share, mean = calibration_curve(true, np.clip(scores, 0, 1), n_bins=10, strategy="quantile")
        right.plot(mean, share, marker="o", label=group.category)
    right.plot([0, 1], [0, 1], color="grey", linewidth=1)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="mean score", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1.02))
    made = []
    for figure, axes, name in (
        (curves, left, "precision-recall.png"),
        (reliability, right, "reliability.png"),
    ):
        axes.grid(alpha=0.3)
        if wanted:
            axes.legend()
        figure.savefig(folder / name, dpi=120, bbox_inches="tight")
        made.append(folder / name)
    return made


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(columns):
        words = number == 0 or name == "lang"
        # A long name is broken into lines, a figure never.
        table.add_column(name, justify="left" if words else "right", no_wrap=number > 0)
    return table


def _shown(value: Value, *, percent: bool = False) -> str:
    if value.value is None:
        return "–"
    times, end, digits = (100, " %", 2) if percent else (1, "", 2)
    told = f"{value.value * times:.{digits}f}"
    if value.low is None or value.high is None:
        return told + end
    return f"{told} ±{(value.high - value.low) / 2 * times:.{digits}f}{end}"


def _line(text: str, most: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
