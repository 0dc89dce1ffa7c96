"""`gardefou train`: making the models that Gardefou ships."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from filters.builtin.scorer import FOLDER
from filters.errors import FilterConfigError
from gateway.cli.probe import probe
from gateway.extras import local_extra

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Train what ships, and probes of your own."""


train.add_command(probe)


@train.command()
@click.option(
    "--data",
    type=_FOLDER,
    required=True,
    help="Folder with train/*.jsonl[.gz]; for an encoder with lm/ too.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where files go.")
@click.option(
    "--base",
    "bases",
    type=_FOLDER,
    multiple=True,
    help="Folder with the base encoder (model.safetensors and vocab.txt), or with "
    "a classifier trained before; of several such, it begins with the mean of their weights. "
    "Without: the classifier that ships.",
)
@click.option(
    "--share",
    "shares",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Of each --base in that mean, in their order; without, they are equal.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Time for the fit; 0: what it begins with is written, and calibrated if rows suffice.",
)
@click.option("--french", type=float, default=18.0, show_default=True, help="And for French.")
@click.option("--made", type=int, default=24_000, show_default=True, help="Pairs to generate.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--members",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fits from other seeds; the best of them ships, or their mean.",
)
@click.option("--rate", default=1.0, show_default=True, help="Factor of the learning rates.")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the base's weights in what ships, where the base is a classifier.",
)
@click.option("--device", default="cpu", show_default=True, help="cuda: on a GPU.")
@click.option("--bfloat16", is_flag=True, help="Products in bfloat16: quicker on some processors.")
def classifier(
    data: Path,
    out: Path,
    bases: tuple[Path, ...],
    shares: tuple[float, ...],
    minutes: float,
    french: float,
    made: int,
    workers: int,
    seed: int,
    members: int,
    rate: float,
    keep: float,
    device: str,
    bfloat16: bool,
) -> None:
    """Train the built-in classifier, or with rows of your own one for your task.

    \b
    Rows are a JSON object a line, as for `gardefou eval`:
        {"text": "…", "labels": {"illicit": 1, "unsafe": 1}, "lang": "en"}

    Called again with the same --out, it goes on. What it writes is served by
    `model = "OUT"` under `[classifiers.NAME]` in the configuration file.
    """
    if device != "cpu" and workers > 1:
        raise click.UsageError("--workers are processes on CPUs: with --device there is one")
    if shares and len(shares) != len(bases):
        raise click.UsageError(f"{len(shares)} --share for {len(bases)} --base")
    if len(set(bases)) < len(bases):
        raise click.UsageError("--base: the same folder twice")
    bases = bases or (FOLDER,)
    with local_extra("training", click.ClickException):
        steps = import_module("filters.builtin.training.job")
    with click.progressbar(length=1000, label="training", show_eta=False) as bar:
        try:
            job = steps.Job(
                data,
                out,
                dict(zip(bases, shares or [1.0] * len(bases), strict=True)),
                minutes,
                french,
                made,
                seed,
                _telling(bar),
                bfloat16,
                device,
                members,
                rate,
                keep,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        try:
            import_module("filters.builtin.training.run").train(job, workers=workers)
        except (FilterConfigError, OSError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"written to {out}")


def _telling(bar: Any) -> Callable[[str, float], None]:
    """Has a bar of a thousand steps show a stage and the share of it that is done."""
    stage, done = "", 0

    def tell(name: str, share: float) -> None:
        nonlocal stage, done
        if name != stage:
            bar.update(-done)
            stage, done, bar.label = name, 0, name
        bar.update(int(1000 * share) - done)
        done = int(1000 * share)

    return tell
