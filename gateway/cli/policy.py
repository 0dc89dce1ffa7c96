"""`gardefou policy lint|test|schema`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from filters.errors import FilterConfigError
from filters.registry import Resources
from gateway.cli.model import running
from gateway.cli.options import settings_from, settings_options
from gateway.guards import close_resources, make_guards, start_guards
from gateway.judging import judge_text
from gateway.resources import judge_model, make_resources
from gateway.settings.types import Settings
from policies.errors import PolicyInvalid
from policies.examples import JudgeOf, Outcome, run_examples
from policies.loader import Loaded, library, load
from policies.schema import PolicySpec


@click.group()
def policy() -> None:
    """Check policies, and run the examples beside their rules."""


@policy.command()
@click.argument("files", nargs=-1, required=True)
@settings_options("filter", "redaction_key")
def lint(files: tuple[str, ...], config: Path | None, **given: Any) -> None:
    """Say what is wrong with policy FILES, as `file:line:column: what`. Exit code 1 if anything."""
    resources = _resources(settings_from(config, given))
    wrong = 0
    for file in files:
        loaded = _load(file, resources)
        if loaded is None:
            wrong += 1
            continue
        rules = sum(
            len(rules) for rules in (loaded.spec.input, loaded.spec.output, loaded.spec.tools)
        )
        for warning in loaded.warnings:
            click.echo(str(warning), err=True)
        click.echo(f"{file}: ok, {rules} rules, version {loaded.policy.version}")
    sys.exit(1 if wrong else 0)


@policy.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--cuts", default=25, show_default=True, help="Random cuts of each example.")
@click.option("--seed", default=0, show_default=True, help="Of the random cuts.")
@click.option("-v", "--verbose", is_flag=True, help="Show examples that hold, too.")
@click.option("--judge", is_flag=True, help="Run examples of critique rules too, on the model.")
@settings_options("filter", "redaction_key", "model", "device", "dtype")
def test(
    files: tuple[str, ...],
    cuts: int,
    seed: int,
    verbose: bool,
    judge: bool,
    config: Path | None,
    **given: Any,
) -> None:
    """Run the examples of policy FILES, whole and in random cuts. Exit code 1 if one fails."""
    settings = settings_from(config, given)
    resources = _resources(settings)

    async def failed() -> int:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(close_resources, resources)
            asked, judge_of = resources, None
            if judge:
                asked, judge_of = await stack.enter_async_context(_judging(settings, resources))
            count = 0
            for file in files:
                outcomes = await _outcomes(_load(file, asked), cuts, seed, judge_of)
                count += 1 if outcomes is None else _told(file, outcomes, verbose=verbose)
            return count

    sys.exit(1 if asyncio.run(failed()) else 0)


def _told(file: str, outcomes: Sequence[Outcome], *, verbose: bool) -> int:
    """Print how the examples went. How many failed."""
    for outcome in outcomes:
        if outcome.problem or verbose or outcome.skipped:
            note = outcome.problem or outcome.skipped or "ok"
            click.echo(note if outcome.problem else f"{outcome.rule} {outcome.kind}: {note}")
    wrong = sum(1 for outcome in outcomes if outcome.problem)
    skipped = sum(1 for outcome in outcomes if outcome.skipped)
    held = len(outcomes) - wrong - skipped
    click.echo(f"{file}: {held} passed, {wrong} failed, {skipped} skipped")
    return wrong


@policy.command("list")
def list_() -> None:
    """List the policies that ship, with their files."""
    for name, path in library().items():
        click.echo(f"{name}\t{path}")


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policies, for editors."""
    click.echo(json.dumps(PolicySpec.model_json_schema(), indent=2))


async def _outcomes(
    loaded: Loaded | None, cuts: int, seed: int, judge_of: JudgeOf | None
) -> list[Outcome] | None:
    """None for what did not load."""
    if loaded is None:
        return None
    examples = run_examples(loaded, cuts=cuts, seed=seed, judge_of=judge_of)
    return [outcome async for outcome in examples]


@asynccontextmanager
async def _judging(
    settings: Settings, resources: Resources
) -> AsyncIterator[tuple[Resources, JudgeOf]]:
    """What filters are handed where the model runs, and its judge.

    Exit code 1, with an error on the terminal, if it does not fit a guard that is to ask it.
    """
    async with running(settings) as runner:
        try:
            guards = make_guards(settings, runner)
            asked = replace(resources, model=judge_model(runner), guards=guards)
            await start_guards(asked, partial(click.echo, err=True))
        except FilterConfigError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        try:
            yield asked, partial(judge_text, runner)
        finally:
            await close_resources(Resources(guards=guards))


def _resources(settings: Settings) -> Resources:
    """Or an error on the terminal and exit code 1: it is no file's fault."""
    try:
        return make_resources(settings, judge=True)
    except FilterConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def _load(file: str, resources: Resources) -> Loaded | None:
    """None if it does not load: what is wrong is told then, and other files have their turn."""
    try:
        return load(file, resources)
    except PolicyInvalid as error:
        click.echo(str(error), err=True)
        return None
