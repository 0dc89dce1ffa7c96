"""Settings as click options: one for each field, its help and default read from the field."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from pydantic_core import PydanticUndefined

from gateway.errors import SettingsInvalid
from gateway.settings.read import read_settings, unknown_variables, variable
from gateway.settings.types import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

#: Read if it is there and `--config` does not say otherwise.
DEFAULT_FILE = Path("gardefou.toml")


def settings_options(*names: str, environment: bool = True) -> Callable[[Command], Command]:
    """Add `--config` and an option for each named field; all that flags can say, if none is.

    environment: whether `GARDEFOU_*` says them too.
    """
    fields = {name: f for name, f in Settings.model_fields.items() if f.description}

    def add(command: Command) -> Command:
        for name in reversed(names or tuple(fields)):
            field = fields[name]
            shown = field.default
            many = isinstance(shown, tuple)
            told = None if shown is PydanticUndefined or shown is None else shown
            default = " ".join(told) or None if isinstance(told, tuple) else told
            text = field.description or ""
            command = click.option(
                f"--{name.replace('_', '-')}",
                name,
                envvar=variable(name) if environment else None,
                multiple=many,
                default=None,
                metavar=_metavar(name),
                help=text if default is None else f"{text}  [default: {default}]",
            )(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            envvar="GARDEFOU_CONFIG" if environment else None,
            help=f"TOML file with any of these.  [default: {DEFAULT_FILE}, if it is there]",
        )(command)

    return add


def settings_from(config: Path | None, given: dict[str, Any]) -> Settings:
    """The settings, or an error on the terminal and exit code 2. Warns of unknown variables."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    for line in unknown_variables(os.environ):
        click.echo(f"gardefou: {line}", err=True)
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    try:
        return read_settings(said, config, {name for name in said if _of_environment(name)})
    except SettingsInvalid as error:
        click.echo(f"gardefou: {error}", err=True)
        sys.exit(2)


def _of_environment(name: str) -> bool:
    """Whether an option's value is the environment's. Groups may have options of their commands."""
    context = click.get_current_context(silent=True)
    while context is not None:
        source = context.get_parameter_source(name)
        if source not in (None, ParameterSource.DEFAULT):
            return source is ParameterSource.ENVIRONMENT
        context = context.parent
    return False


def _metavar(name: str) -> str:
    numbers = {"port", "max_tokens", "queue", "drain_seconds"}
    return "N" if name in numbers or name.endswith(("_minute", "_hour", "_streams")) else "TEXT"
