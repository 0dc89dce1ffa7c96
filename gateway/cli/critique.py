"""`gardefou critique calibrate`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import click

from filters.calibration import Tables, parse_tables
from filters.critique import CritiqueFilter
from filters.errors import FilterError
from gateway.calibrating import Labelled, Measured, bins, brier, measure, read_labelled
from gateway.cli.model import running
from gateway.cli.options import settings_from, settings_options
from gateway.errors import CalibrationImpossible
from gateway.resources import judge_model, make_resources
from gateway.settings.types import Settings
from model_runner.errors import RunnerError
from policies.errors import PolicyInvalid
from policies.loader import TABLES, library, load


@click.group()
def critique() -> None:
    """Find out what the model's judgement is worth."""


@critique.command()
@click.option("--policy", "source", required=True, help="The policy's file.")
@click.option(
    "--data",
    type=click.File(encoding="utf-8"),
    help="Labelled texts. Without, only the prior is measured.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Reliability diagram, as PNG.")
@settings_options("filter", "redaction_key", "model", "device", "dtype")
def calibrate(
    source: str, data: TextIO | None, plot: Path | None, config: Path | None, **given: Any
) -> None:
    """Fit tables for the critique filters of a policy, on the model that will judge.

    \b
    --data is a JSON object a line:
      text     what is judged
      label    true if the answer to the rubric's question is yes
      prompt   what the text answers, if it is known
      stage    output (default), input or tool_arguments
      rubric   the filter's name; may be left out where the policy has one critique

    The tables go to POLICY.calibration.json beside POLICY.yaml; tables of other models and rubrics
    there stay. A running server takes them up.
    """
    settings = settings_from(config, given)
    if source in library():
        raise click.ClickException(f"{source} is shipped: copy it, and calibrate the copy")
    if plot is not None:
        _pyplot()  # before the work is done, not after
    try:
        texts = read_labelled(data, data.name) if data is not None else []
        asyncio.run(_calibrate(Path(source), settings, texts, plot))
    except (PolicyInvalid, FilterError, CalibrationImpossible, RunnerError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


async def _calibrate(
    source: Path, settings: Settings, texts: Sequence[Labelled], plot: Path | None
) -> None:
    beside = source.with_name(f"{source.stem}{TABLES}")
    async with running(settings) as runner:
        resources = replace(make_resources(settings, judge=True), model=judge_model(runner))
        policy = load(source, resources).policy
        filters = [link.filter for link in policy.links.values()]
        rubrics = [made for made in filters if isinstance(made, CritiqueFilter)]
        shares = _shares(rubrics, texts)
        tables = parse_tables(beside.read_text("utf-8")) if beside.exists() else Tables()
        found = {}
        for made in rubrics:
            share = shares[made.name]
            with click.progressbar(length=len(share), label=made.name, file=sys.stderr) as bar:
                found[made.name] = await measure(runner, made, share, bar.update)
            tables = tables.with_table(found[made.name].table)
            click.echo(f"{made.name}: {_told(found[made.name])}")
    beside.write_text(tables.model_dump_json(indent=2) + "\n", encoding="utf-8")
    click.echo(f"{len(rubrics)} tables for model {runner.info.digest} in {beside}")
    if plot is not None:
        draw(found, plot)
        click.echo(f"reliability diagram in {plot}")


def _shares(
    rubrics: Sequence[CritiqueFilter], texts: Sequence[Labelled]
) -> dict[str, list[Labelled]]:
    """The texts of each rubric. Raises CalibrationImpossible."""
    names = [made.name for made in rubrics]
    if not names:
        raise CalibrationImpossible("the policy has no critique filter")
    shares: dict[str, list[Labelled]] = {name: [] for name in names}
    for one in texts:
        name = one.rubric or (names[0] if len(names) == 1 else "")
        if name not in shares:
            said = f"{name!r} is none" if name else "a text says no `rubric`"
            raise CalibrationImpossible(f"{said}; the policy's rubrics are {', '.join(names)}")
        shares[name].append(one)
    return shares


def _told(found: Measured) -> str:
    table = found.table
    if not table.fitted:
        return f"prior {table.prior:.3f}; no labelled texts"
    said, held_out = brier(found.probabilities, found.labels), brier(found.scores, found.labels)
    share = sum(found.labels) / len(found.labels)
    poor = held_out >= share * (1 - share)
    note = "; no better than knowing the share of yes: do not act on it" if poor else ""
    return (
        f"prior {table.prior:.3f}, slope {table.slope:.3f}, intercept {table.intercept:.3f}, "
        f"{table.examples} texts; Brier score {said:.3f} as the model says it, {held_out:.3f} "
        f"calibrated (held out){note}"
    )


def _pyplot() -> Any:
    """Matplotlib, drawing to files. Raises click.ClickException."""
    try:
        import_module("matplotlib").use("agg")
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise click.ClickException("--plot needs `pip install 'gardefou[eval]'`") from error


def draw(found: dict[str, Measured], path: Path) -> None:
    """For each rubric: of texts with like scores, the share of yes over the mean score."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(found), squeeze=False, figsize=(4 * len(found), 4), layout="constrained"
    )
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for label, scores in (("as said", one.probabilities), ("calibrated", one.scores)):
            points = bins(scores, one.labels)
            axis.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=label)
        axis.set(title=name, xlabel="mean score", ylabel="share of yes", xlim=(0, 1), ylim=(0, 1))
        axis.legend()
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)
