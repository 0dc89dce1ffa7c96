"""`gardefou eval`: how well a policy finds what labelled texts hold."""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from filters.labelled import Data, Row, read
from filters.types import Stage
from gateway.cli.opened import opened
from gateway.cli.options import settings_from, settings_options
from gateway.evaluation.screening import Said, screen_all
from gateway.settings.types import Settings
from policies.examples import STAGES

#: Bad rows that are told one by one.
TOLD = 20


@click.command("eval")
@click.option("--policy", "source", default="default", show_default=True, help="File or name.")
@click.option("--stage", type=click.Choice(list(STAGES)), default="input", show_default=True)
@click.option(
    "--data",
    "first",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="JSON Lines, gzipped or not; name as many as you like.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many rows of each file.")
@click.option("--at-once", type=click.IntRange(1), default=8, show_default=True, help="Texts.")
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Of the bootstrap; 0 for no intervals.",
)
@click.option("--worst", type=click.IntRange(0), default=20, show_default=True, help="Errors.")
@click.option("--show-text", is_flag=True, help="Show the texts of the worst errors.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--plots", type=click.Path(path_type=Path), help="Write PNG files to this folder.")
@settings_options("filter", "redaction_key")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path))
def evaluate(
    source: str,
    stage: str,
    first: tuple[Path, ...],
    more: tuple[Path, ...],
    limit: int | None,
    at_once: int,
    resamples: int,
    worst: int,
    show_text: bool,
    as_json: bool,
    plots: Path | None,
    config: Path | None,
    **given: Any,
) -> None:
    """Measure how well a policy finds what labelled texts hold.

    \b
    A row: {"text": …, "labels": {category: 0..1}, "lang": "en", "source": "…"}

    A category that a row does not label is unknown there, and masked. A label counts as true from
    0.5 on. Rows that are none are told as path:line; the others are still measured, and the exit
    code is 1.
    """
    try:
        measures = import_module("gateway.evaluation.measures")
        report = import_module("gateway.evaluation.report")
        if plots is not None:
            import_module("matplotlib.figure")
    except ImportError as error:
        raise click.ClickException(
            f"this needs `pip install 'gardefou[eval]'` ({error})"
        ) from error
    data = _read((*first, *more), limit)
    said = asyncio.run(
        _screened(settings_from(config, given), source, STAGES[stage], data, at_once)
    )
    made = measures.measure(said, resamples=resamples, worst=worst)
    if as_json:
        click.echo(json.dumps(report.as_json(made, show_text=show_text), ensure_ascii=False))
    else:
        report.show(made, import_module("rich.console").Console(), show_text=show_text)
    for path in report.plot(said, made, plots) if plots is not None else ():
        click.echo(str(path), err=True)
    sys.exit(1 if data.problems else 0)


def _read(paths: tuple[Path, ...], limit: int | None) -> Data:
    """All rows; what is wrong with some is told on standard error."""
    data = Data()
    for path in paths:
        try:
            found = read(path, limit=limit)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise click.ClickException(f"{path}: {reason}") from error
        data.rows += found.rows
        data.problems += found.problems
    for problem in data.problems[:TOLD]:
        click.echo(problem, err=True)
    if len(data.problems) > TOLD:
        click.echo(f"… and {len(data.problems) - TOLD} more rows that are none", err=True)
    if not data.rows:
        raise click.ClickException("no rows")
    return data


async def _screened(
    settings: Settings, source: str, stage: Stage, data: Data, at_once: int
) -> list[Said]:
    rows: list[Row] = data.rows
    async with opened(settings, source) as policy:
        with click.progressbar(length=len(rows), label="screening", file=sys.stderr) as bar:
            return await screen_all(policy, stage, rows, at_once=at_once, done=bar.update)
