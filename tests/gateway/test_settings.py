"""What the settings take, and what they say where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gateway.cli.options import settings_from, settings_options
from gateway.errors import SettingsInvalid
from gateway.settings.read import read_settings, variable
from gateway.settings.types import Settings


@click.command()
@settings_options()
def show(config: Path | None, **given: Any) -> None:
    settings = settings_from(config, given)
    click.echo(" ".join([*settings.policy, str(settings.max_tokens), str(settings.upstream)]))


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(show, arguments, env=environment)


def wrong(text: str, tmp_path: Path) -> str:
    """What is said of a file, without its name."""
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        read_settings({}, file)
    return str(caught.value).replace(f"{file}: ", "")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("redis", "localhost:6379", "an address begins with redis://, rediss:// or unix:// (given"),
        ("redis", "http://x", "an address begins with redis://, rediss:// or unix:// (given"),
        ("redis", "redis://localhost:first", "the port is none"),
        ("redis", "redis://localhost:70000", "the port is none"),
        ("filter", ["shouting"], "'shouting' is not NAME=path/to/file.py:Class or NAME=module:Cl"),
        ("filter", ["shouting=shouting.py"], "is not NAME=path/to/file.py:Class"),
        ("filter", ["regex=shouting.py:Shouting"], "'regex' is a kind that ships"),
        ("filter", ["a=a:A", "a=b:B"], "two kinds have the name 'a'"),
        ("upstream_has", ["colour"], "'colour' is none of bans, "),
    ],
)
def test_what_is_refused_says_what_is_wanted(name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        read_settings({name: value}, None)
    message = str(caught.value)
    assert message.startswith(f"--{name.replace('_', '-')}: ")
    assert said in message
    assert "given: [" not in message


@pytest.mark.parametrize("address", ["redis://localhost", "rediss://me:a@h:1/2", "unix:///r.sock"])
def test_addresses_of_redis(address: str) -> None:
    assert read_settings({"redis": address}, None).redis == address


@pytest.mark.parametrize(
    "said",
    [
        {"redis": "http://:secret@host"},
        {"redis": "host?password=secret"},
        {"upstream": "me:secret@host"},
        {"redaction_key": "secret"},
        {"detectors": {"own": {"url": "ftp://me:secret@host", "detector": "x"}}},
        {"guards": {"own": {"template": "x", "upstream": "host?key=secret"}}},
        {"guards": {"own": {"template": "x", "key": 3, "upstream": "me:secret@host"}}},
    ],
)
def test_no_secret_is_repeated(said: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(said, None)
    assert "secret" not in str(caught.value)


def test_one_text_stands_for_a_list_of_one(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'policy = "live.yaml"\nfilter = "own=own:Own"\nupstream-has = "n"\nupstream-lacks = "seed"'
    )
    settings = read_settings({}, file)
    assert settings.policy == ("live.yaml",)
    assert settings.kinds == {"own": "own:Own"}
    assert (settings.upstream_has, settings.upstream_lacks) == (("n",), ("seed",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy = 3", "policy: expected a text, or a list of them (given: 3)"),
        ("policy = [3]", "policy.0: expected a text (given: 3)"),
        ("port = 'x'", "port: expected a whole number (given: 'x')"),
        ("port = 1.5", "port: expected a whole number (given: 1.5)"),
        ("stall = 'x'", "stall: expected a number (given: 'x')"),
        ("compile = 'maybe'", "compile: expected 'no' or 'yes' (given: 'maybe')"),
        ("data = 3", "data: expected a path (given: 3)"),
        ("batch = 3", "batch: expected a table (given: 3)"),
        ("[batch]\nsize = 0", "batch.size: 1 or more (given: 0)"),
        ("[classifiers.own]", "classifiers.own.model: missing"),
        ("[detectors.own]\nmodel = 'x'\nrest = 0", "detectors.own.rest: more than 0 (given: 0)"),
        ("port = 70000", "port: a port is a number from 0 to 65535 (given: 70000)"),
        ("kv-gib = 1e6", "kv-gib: less than 1000000 (given: 1000000.0)"),
        ("kv-gib = nan", "kv-gib: expected a number (given: nan)"),
        ("[batch]\nms = inf", "batch.ms: expected a number (given: inf)"),
        ("drain-seconds = nan", "drain-seconds: from 0 to 3600 seconds (given: nan)"),
        (
            "receive-seconds = 0",
            "receive-seconds: more than 0 and at most 3600 seconds (given: 0)",
        ),
        ("blocks-per-hour = 0", "blocks-per-hour: 1 or more (given: 0)"),
        (
            "[detectors.own]\nurl = 'x'",
            "detectors.own.url: an address begins with http:// or https:// (given: 'x')",
        ),
        ("polcy = 'x'", "polcy: unknown setting; did you mean policy?"),
        ("zzz = 'x'", "zzz: unknown setting"),
    ],
)
def test_files_are_explained_in_our_words(text: str, said: str, tmp_path: Path) -> None:
    assert wrong(text, tmp_path) == said


def test_the_environment_is_named_where_it_is_wrong() -> None:
    result = run(GARDEFOU_PORT="abc")
    assert result.exit_code == 2
    assert result.stderr == "gardefou: GARDEFOU_PORT: expected a whole number (given: 'abc')\n"
    assert run("--port", "x", GARDEFOU_PORT="1").stderr.startswith("gardefou: --port: ")


def test_unknown_variables_are_warned_of() -> None:
    result = run(GARDEFOU_POLCY="strict", GARDEFOU_ZZZ="1", GARDEFOU_BATCH="1")
    assert result.exit_code == 0
    polcy, zzz = (line for line in result.stderr.splitlines() if "BATCH" not in line)
    told = "is no setting of the environment, and is ignored"
    assert polcy == f"gardefou: GARDEFOU_POLCY {told}; did you mean GARDEFOU_POLICY?"
    assert zzz == f"gardefou: GARDEFOU_ZZZ {told}"
    assert f"GARDEFOU_BATCH {told}" in result.stderr  # a table, which only the file has


def test_known_variables_are_not_warned_of() -> None:
    names = [variable(name) for name, field in Settings.model_fields.items() if field.description]
    names += ["GARDEFOU_CONFIG", "GARDEFOU_KEY", "GARDEFOU_URL"]
    # Kubernetes sets these beside a service named `gardefou`.
    names += ["GARDEFOU_SERVICE_HOST", "GARDEFOU_PORT_8080_TCP_ADDR"]
    assert run(**dict.fromkeys(names, "")).stderr == ""


def test_an_empty_variable_is_not_set() -> None:
    """Files for containers pass on variables that nobody gave."""
    names = [variable(name) for name in Settings.model_fields]
    assert run(**dict.fromkeys([*names, "GARDEFOU_CONFIG"], "")).stdout == "default 512 None\n"
    assert run(GARDEFOU_POLICY="a b").stdout == "a b 512 None\n"
