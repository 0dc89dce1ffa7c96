"""Settings from flags, environment and file; what is wrong with them is said with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.errors import SettingsInvalid
from gateway.settings.types import Settings

#: Variables that are no settings: of the command line, and of clients as the docs and examples have
#: them.
OTHER_VARIABLES = ("GARDEFOU_CONFIG", "GARDEFOU_KEY", "GARDEFOU_URL")


def read_settings(
    given: Mapping[str, Any], file: Path | None, variables: Collection[str] = ()
) -> Settings:
    """Settings from flags and environment (`given`) over the file. Raises SettingsInvalid.

    variables: names in `given` that the environment said, for messages.
    """
    said: dict[str, Any] = {}
    if file is not None:
        try:
            said = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalid(f"{file}: {error}") from error
    said = {key.replace("_", "-"): value for key, value in said.items()}
    flags = {key.replace("_", "-"): value for key, value in given.items()}
    places = {name: f"{file}: {name}" for name in said}
    places |= {name: f"--{name}" for name in flags}
    places |= {name.replace("_", "-"): variable(name) for name in variables}
    try:
        return Settings.model_validate(said | flags)
    except ValidationError as error:
        raise SettingsInvalid("\n".join(_explained(e, places) for e in error.errors())) from error


def variable(name: str) -> str:
    """The environment's name for a setting."""
    return f"GARDEFOU_{name.replace('-', '_').upper()}"


def unknown_variables(environment: Collection[str]) -> list[str]:
    """What to say of each `GARDEFOU_*` that is no setting, a line each."""
    known = [variable(name) for name, field in Settings.model_fields.items() if field.description]
    known += OTHER_VARIABLES
    return [
        f"{name} is no setting of the environment, and is ignored{_near(name, known)}"
        for name in sorted(environment)
        if name.startswith("GARDEFOU_") and name not in known and not _of_kubernetes(name)
    ]


def _of_kubernetes(name: str) -> bool:
    """Whether Kubernetes sets it by itself, beside a service named `gardefou`."""
    return re.match(r"GARDEFOU_(SERVICE_HOST|SERVICE_PORT|PORT_\d+_)", name) is not None


def _near(name: str, known: Collection[str]) -> str:
    # Without what all variables have in common, and would make them near.
    ends = {one.removeprefix("GARDEFOU_"): one for one in known}
    near = get_close_matches(name.removeprefix("GARDEFOU_"), ends, n=1)
    return f"; did you mean {ends[near[0]]}?" if near else ""


#: What pydantic would say in its own words.
_WANTED = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "string_type": "expected a text",
    "path_type": "expected a path",
    "tuple_type": "expected a text, or a list of them",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "literal_error": "expected {expected}",
    "greater_than_equal": "{ge:.15g} or more",
    "greater_than": "more than {gt:.15g}",
    "less_than_equal": "{le:.15g} or less",
    "less_than": "less than {lt:.15g}",
    "finite_number": "expected a number",
    "missing": "missing",
}


def _explained(error: Any, places: Mapping[str, str]) -> str:
    """One thing that is wrong, and where. places: where each setting that was given stands."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    setting, *path = (str(part) for part in error["loc"])
    where = ".".join([places.get(setting, f"--{setting}"), *path])
    if error["type"] == "extra_forbidden":
        known = [name.replace("_", "-") for name in Settings.model_fields]
        return f"{where}: unknown setting" + ("" if path else _near(setting, known))
    if error["type"] in _WANTED:
        message = _WANTED[error["type"]].format(**error.get("ctx", {}))
    if error["type"] == "missing" or _untold(".".join([setting, *path]), error["input"]):
        return f"{where}: {message}"
    return f"{where}: {message} (given: {error['input']!r})"


def _untold(name: str, given: object) -> bool:
    """Whether a value is not repeated: it may hold a secret, or the message has what matters."""
    if isinstance(given, dict | list | tuple):
        return True
    # An address may hold a password, before its @ or in its query.
    return name.endswith(("-key", ".key")) or (isinstance(given, str) and bool({*"@?"} & {*given}))
