"""Tables in the documentation that the code can write itself. As a module, writes them.

A table stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from gateway.errors import TABLE
from gateway.settings.types import Settings
from gateway.wire.openai_moderations import CATEGORIES
from model_runner.errors import RunnerError
from policies.document import Document
from policies.loader import LIBRARY
from tests.support.metrics import series, touched

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        if not field.description:
            continue  # tables of the file
        default = field.default
        shown = f"`{' '.join(default) if isinstance(default, tuple) else default}`"
        if default in (None, ()):
            shown = ""
        if isinstance(default, Path):
            shown = "the user's data folder"
        rows.append([f"`--{name.replace('_', '-')}`", shown, field.description])
    return _table(["setting", "default", ""], rows)


def metrics() -> str:
    rows = []
    made = touched()
    known = series(made)
    for metric in vars(made).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = known.get(name, known.get(f"{name}_count", frozenset()))
        labels = [label for label in metric._labelnames if label in shown]
        rows.append(
            [f"`{name}`", family.type, " ".join(f"`{x}`" for x in labels), family.documentation]
        )
    return _table(["metric", "type", "labels", ""], rows)


def errors() -> str:
    rows = []
    for kind, answer in TABLE:
        says = re.split(r"(?<=\.)\s", " ".join((kind.__doc__ or "").split()))[0]
        if kind is RunnerError:
            says = "The engine failed, in a way of its own."
        type_ = "the limit's name" if answer.code == "rate_limit_exceeded" else f"`{answer.type}`"
        code = f"`{answer.code}`" if answer.code else ""
        rows.append([str(answer.status), code, type_, says])
    rows.append(["500", "`internal_error`", "`server_error`", "Anything else."])
    return _table(["status", "code", "type", "when"], rows)


def categories() -> str:
    return _table(
        ["OpenAI's category", "ours"], [[f"`{a}`", f"`{b}`"] for a, b in CATEGORIES.items()]
    )


def packs() -> str:
    rows = []
    for path in sorted((LIBRARY / "packs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        data: Any = Document(text, str(path)).data
        about = " ".join(re.findall(r"^# (.*)$", text.partition("\n\n")[0], re.MULTILINE)[:4])
        first = re.split(r"(?<=\.)\s", about)[0]
        names = ", ".join(f"`{name}`" for name in data["examples"])
        rows.append([f"`{path.stem}`", names, first])
    return _table(["pack", "categories", ""], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "errors": errors,
    "categories": categories,
    "packs": packs,
}


def written(text: str) -> str:
    """`text` with its tables as they should be."""
    return _BLOCK.sub(lambda m: f"<!-- {m[1]} -->\n{TABLES[m[1]]()}<!-- /{m[1]} -->", text)


if __name__ == "__main__":
    for page in DOCS.glob("*.md"):
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
