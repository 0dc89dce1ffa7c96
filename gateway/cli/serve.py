"""`gardefou serve`."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from gateway.cli.options import settings_from, settings_options


@click.command()
@settings_options()
@click.option("--check", is_flag=True, help="Check that all of this would serve, and exit.")
def serve(config: Path | None, check: bool, **given: Any) -> None:
    """Serve a model behind a policy, with OpenAI's API.

    \b
    gardefou serve                                               the built-in demo model
    gardefou serve --model mistralai/Mistral-7B-Instruct-v0.3    a model here, on the GPU if any
    gardefou serve --upstream http://localhost:8000/v1           an engine elsewhere

    Each option is also GARDEFOU_<OPTION> in the environment and a key of the TOML file; flags win
    over the environment, and that over the file. Without keys (`gardefou keys add`) it serves this
    machine only.
    """
    settings = settings_from(config, given)
    say(f"gardefou {version('gardefou')}: " + ("checking" if check else "starting"))
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    # Only now what is slow to import, so that the first line comes at once.
    from filters.errors import FilterConfigError
    from gateway import server
    from gateway.errors import GatewayError
    from gateway.redis_connection import open_redis
    from model_runner.errors import RunnerError
    from policies.errors import PolicyInvalid

    try:
        with open_redis(settings.redis, settings.data, serving=True) as redis:
            where = "embedded" if redis.embedded else "yours"
            say(f"redis: {where}")
            asyncio.run(server.serve(settings, redis, say, check=check))
    except (GatewayError, PolicyInvalid, FilterConfigError, RunnerError) as error:
        click.echo(f"gardefou: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def say(line: str) -> None:
    """One line of progress."""
    click.echo(f"  {line}", err=True)
