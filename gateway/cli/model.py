"""A model for commands that ask one."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from gateway.errors import SettingsInvalid
from gateway.settings.types import Settings
from model_runner.errors import RunnerError
from model_runner.types import ModelRunner


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ModelRunner]:
    """The engine of the settings, started; an error on the terminal and exit code 2 if it is none,
    or cannot judge.
    """
    from gateway.server import make_runner  # with it comes the web server

    try:
        runner = make_runner(settings, lambda line: click.echo(f"  {line}", err=True))
        await runner.start()
    except (SettingsInvalid, RunnerError) as error:
        click.echo(f"gardefou: {error}", err=True)
        sys.exit(2)
    try:
        if not runner.capabilities.score:
            click.echo("gardefou: this engine cannot judge: give a model that runs here", err=True)
            sys.exit(2)
        yield runner
    finally:
        await runner.close()
