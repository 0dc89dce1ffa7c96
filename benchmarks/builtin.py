"""The built-in classifier on labelled files: ranking and false alarms. (Speed: `classifier.py`.)

    python -m benchmarks.builtin FILE.jsonl[.gz]…   a line per file and category

A false alarm is a harmless text that scores 0.5 or more. Files have the form that
`gardefou train classifier` reads. Lines: texts, and for each category with labels of both kinds the
area under the ROC curve and the average precision; with labels of one kind, the share at 0.5.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from filters.builtin.categories import CATEGORIES
from filters.builtin.model import Model
from filters.builtin.scorer import FOLDER
from filters.builtin.training.measures import auc, average_precision
from filters.builtin.training.rows import Row, read_rows, source


def quality(model: Model, path: Path, most: int) -> str:
    """One line of figures for one file."""
    rows = list(read_rows(path))
    rows = random.Random(0).sample(rows, min(len(rows), most))
    scores: list[list[float]] = []
    for start in range(0, len(rows), 64):
        scores += model.score([row.text for row in rows[start : start + 64]])
    cells = [_cell(place, rows, scores) for place in range(len(CATEGORIES))]
    return f"{source(path):38} {len(rows):5} " + " ".join(filter(None, cells))


def _cell(place: int, rows: list[Row], scores: list[list[float]]) -> str:
    category = CATEGORIES[place]
    known = [
        (s[place], r.labels[category])
        for r, s in zip(rows, scores, strict=True)
        if category in r.labels
    ]
    values, harmful = [v for v, _ in known], [label >= 0.5 for _, label in known]
    if not known:
        return ""
    share = sum(v >= 0.5 for v in values) / len(values)
    if not any(harmful):
        return f"{category} alarms {share:.4f};"
    recall = sum(v >= 0.5 for v, h in zip(values, harmful, strict=True) if h) / sum(harmful)
    if all(harmful):
        return f"{category} recall {recall:.3f};"
    alarms = sum(v >= 0.5 for v, h in zip(values, harmful, strict=True) if not h)
    return (
        f"{category} AUC {auc(values, harmful):.3f} AP {average_precision(values, harmful):.3f} "
        f"recall {recall:.3f} alarms {alarms / (len(harmful) - sum(harmful)):.4f};"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=100_000, help="texts of a file at most")
    parser.add_argument("--model", type=Path, default=FOLDER)
    given = parser.parse_args()
    model = Model(given.model, threads=1)
    for path in given.files:
        print(quality(model, path, given.most), flush=True)


if __name__ == "__main__":
    main()
