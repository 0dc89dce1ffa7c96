"""`gardefou policy lint|test|schema`."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from filters.registry import Resources
from policies.errors import PolicyInvalid
from policies.examples import Outcome, run_examples
from policies.loader import Loaded, library, load
from policies.schema import PolicySpec


@click.group()
def policy() -> None:
    """Check policies, and run the examples beside their rules."""


@policy.command()
@click.argument("files", nargs=-1, required=True)
def lint(files: tuple[str, ...]) -> None:
    """Say what is wrong with policy FILES, as `file:line:column: what`. Exit code 1 if anything."""
    for file in files:
        loaded = _load(file)
        rules = sum(
            len(rules) for rules in (loaded.spec.input, loaded.spec.output, loaded.spec.tools)
        )
        click.echo(f"{file}: ok, {rules} rules, version {loaded.policy.version}")


@policy.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--cuts", default=25, show_default=True, help="Random cuts of each example.")
@click.option("--seed", default=0, show_default=True, help="Of the random cuts.")
@click.option("-v", "--verbose", is_flag=True, help="Show examples that hold, too.")
def test(files: tuple[str, ...], cuts: int, seed: int, verbose: bool) -> None:
    """Run the examples of policy FILES, whole and in random cuts. Exit code 1 if one fails."""
    failed = 0
    for file in files:
        outcomes = asyncio.run(_outcomes(_load(file), cuts, seed))
        for outcome in outcomes:
            if outcome.problem or verbose or outcome.skipped:
                note = outcome.problem or outcome.skipped or "ok"
                click.echo(note if outcome.problem else f"{outcome.rule} {outcome.kind}: {note}")
        wrong = sum(1 for outcome in outcomes if outcome.problem)
        skipped = sum(1 for outcome in outcomes if outcome.skipped)
        held = len(outcomes) - wrong - skipped
        click.echo(f"{file}: {held} passed, {wrong} failed, {skipped} skipped")
        failed += wrong
    sys.exit(1 if failed else 0)


@policy.command("list")
def list_() -> None:
    """List the policies that ship, with their files."""
    for name, path in library().items():
        click.echo(f"{name}\t{path}")


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policies, for editors."""
    click.echo(json.dumps(PolicySpec.model_json_schema(), indent=2))


async def _outcomes(loaded: Loaded, cuts: int, seed: int) -> list[Outcome]:
    return [outcome async for outcome in run_examples(loaded, cuts=cuts, seed=seed)]


def _load(file: str) -> Loaded:
    try:
        return load(file, Resources(judge=True))
    except PolicyInvalid as error:
        click.echo(str(error), err=True)
        sys.exit(1)
