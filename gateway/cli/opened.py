"""A policy for commands that screen texts with it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from filters.errors import FilterConfigError
from gateway.guards import close_resources
from gateway.resources import make_resources
from gateway.settings.types import Settings
from policies.errors import PolicyInvalid
from policies.loader import load
from policies.plan import Policy


@asynccontextmanager
async def opened(settings: Settings, source: str) -> AsyncIterator[Policy]:
    """The policy, and its filters until the end; an error on the terminal and exit code 2 if it
    does not load.
    """
    try:
        resources = make_resources(settings, judge=False)
        policy = load(source, resources).policy
    except (PolicyInvalid, FilterConfigError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    try:
        yield policy
    finally:
        await close_resources(resources)
