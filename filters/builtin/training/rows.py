"""Rows of labelled text: JSON Lines, with gzip or without, one file a source."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filters.builtin.categories import CATEGORIES
from filters.errors import FilterConfigError
from filters.labelled import UNSAID, lines, read


@dataclass(frozen=True, slots=True)
class Row:
    """labels: category -> 0 to 1. A category that is absent is unknown, not 0."""

    text: str
    labels: Mapping[str, float]
    language: str
    source: str


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file `NAME.jsonl[.gz]` whose labels name one of our categories.

    A row that says no language is taken for English. Raises FilterConfigError (`path:line`).
    """
    try:
        data = read(path)
    except (OSError, EOFError, zlib.error) as error:
        raise FilterConfigError(f"{path}: {error}") from error
    if data.problems:
        raise FilterConfigError(data.problems[0])
    for row in data.rows:
        labels = {c: value for c, value in row.labels.items() if c in CATEGORIES}
        if labels and row.text.strip():
            language = "en" if row.lang == UNSAID else row.lang
            yield Row(row.text, labels, language, source(path))


def files(folder: Path) -> list[Path]:
    """The files of rows in a folder, in the order of the alphabet."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])


def source(path: Path) -> str:
    """A file is a source, and gives it its name."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Sentences in English and in French."""
    for row in _objects(path):
        yield row["prompt"], row["response"]


def read_texts(path: Path) -> Iterator[str]:
    """Plain texts."""
    for row in _objects(path):
        yield row["text"]


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in lines(path):
        yield json.loads(line)
