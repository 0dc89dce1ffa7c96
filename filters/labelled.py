"""Labelled texts: JSON Lines, gzipped or not.

{"text": …, "labels": {category: 0..1}, "lang": "en", "source": "…", "split": "…"}

A category that is absent from `labels` is unknown, not 0.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: From here on a label counts as true.
TRUE = 0.5
#: Where a row does not say it.
UNSAID = "?"


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    text: str
    labels: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    lang: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One text. `where`: `path:line`."""

    where: str
    text: str
    labels: Mapping[str, float]
    lang: str = UNSAID
    source: str = UNSAID

    @property
    def harmless(self) -> bool:
        """Known to be: something is known of it, and nothing known is true."""
        return bool(self.labels) and all(value < TRUE for value in self.labels.values())


@dataclass(slots=True)
class Data:
    """What files hold. `problems`: rows that are none, as `path:line: what`."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(path: Path, *, limit: int | None = None) -> Data:
    """The rows of a file, its first `limit`. Raises OSError, EOFError or zlib.error (torn gzip)."""
    data = Data()
    for number, line in lines(path):
        if limit is not None and len(data.rows) >= limit:
            break
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            made = _Row.model_validate(json.loads(line))
        except ValidationError as error:
            data.problems.append(f"{where}: {_said(error)}")
        except (ValueError, RecursionError):
            data.problems.append(f"{where}: not JSON")
        else:
            source = made.source or path.name.partition(".")[0]
            data.rows.append(Row(where, made.text, made.labels, made.lang or UNSAID, source))
    return data


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers with lines; bytes that are no UTF-8 make a line that is no JSON."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if zipped else raw
        for number, line in decoded(file):
            yield number, "not UTF-8" if line is None else line


def decoded(file: Iterable[bytes]) -> Iterator[tuple[int, str | None]]:
    """Line numbers with lines, None for one that is no UTF-8. A byte-order mark is left out."""
    for number, line in enumerate(file, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield number, None


def _said(error: ValidationError) -> str:
    """What is wrong first, without the text."""
    first = error.errors(include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}: {first['msg']}" if name else str(first["msg"])
