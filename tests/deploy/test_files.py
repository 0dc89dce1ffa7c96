"""The files of deploy/ fit each other, and the gateway. No container engine is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.cli.options import DEFAULT_FILE
from gateway.settings.read import unknown_variables
from gateway.settings.types import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.fixture(scope="module")
def services() -> Any:
    return yaml(DEPLOY / "compose.yaml")["services"]


def containerfile() -> list[str]:
    """Its instructions, continued lines joined and comments left out."""
    text = (DEPLOY / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def test_what_is_mounted_is_there(services: Any) -> None:
    volumes = yaml(DEPLOY / "compose.yaml")["volumes"]
    for name, service in services.items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            there = (DEPLOY / source).exists() if source.startswith(".") else source in volumes
            assert there, f"{name}: {mount}"


def test_only_images_that_are_pinned(services: Any) -> None:
    for name, service in services.items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+[^:]*$", service["image"]), name


def test_ports_are_open_to_this_machine_alone(services: Any) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_come_from_outside(services: Any) -> None:
    """A password must be given: no default one is ever in force."""
    said = [
        f"{key}={value}"
        for service in services.values()
        for key, value in service.get("environment", {}).items()
    ]
    secret = [line for line in said if "PASSWORD" in line]
    assert len(secret) == 3
    assert all(re.search(r"\$\{\w+:\?", line) for line in secret)
    # Passed on from outside, if they are there.
    assert {"GARDEFOU_UPSTREAM_KEY=None", "GARDEFOU_REDACTION_KEY=None"} <= set(said)


def settings_named(names: list[str]) -> set[str]:
    return {name for name in names if unknown_variables([name])}


def test_environment_names_settings_that_there_are(services: Any) -> None:
    assert not settings_named(list(services["gateway"]["environment"]))
    set_in_image = [
        name
        for line in containerfile()
        if line.startswith("ENV")
        for name in re.findall(r"(\w+)=", line)
    ]
    assert "GARDEFOU_HOST" in set_in_image
    assert not settings_named(set_in_image)


def test_policies_and_settings_of_one_s_own_are_found(services: Any) -> None:
    """What lies in the folder is named without a path, and only read."""
    gateway = services["gateway"]
    assert f"./policies:{gateway['working_dir']}:ro" in gateway["volumes"]
    assert not DEFAULT_FILE.is_absolute()
    assert {"GARDEFOU_POLICY", "GARDEFOU_FILTER", "GARDEFOU_CONFIG"} <= set(gateway["environment"])


def test_build_arguments_are_declared(services: Any) -> None:
    build = services["gateway"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Containerfile")
    declared = {re.split("[ =]", line)[1] for line in containerfile() if line.startswith("ARG")}
    assert set(build["args"]) <= declared


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = [
        source
        for line in containerfile()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source in allowed


def test_the_image_does_not_run_as_root() -> None:
    users = [line.split()[1] for line in containerfile() if line.startswith("USER")]
    assert users == ["10001"]


def test_prometheus_asks_the_gateway(services: Any) -> None:
    config = yaml(DEPLOY / "prometheus.yml")
    mounted = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    for file in config["rule_files"]:
        assert (DEPLOY / file).exists()
        assert f"/etc/prometheus/{file}" in mounted
    (scrape,) = config["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in services
    assert int(port) == Settings.model_fields["port"].default


def test_grafana_finds_its_source_and_its_dashboards(services: Any) -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml(provisioning / "datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    mounts = {inside: outside for outside, inside in mounts.items()}
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"
    (provider,) = yaml(provisioning / "dashboards/gardefou.yaml")["providers"]
    folder = DEPLOY / mounts[provider["options"]["path"]]
    home = PurePosixPath(
        services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    )
    dashboard = json.loads((folder / home.name).read_text())
    assert str(home.parent) == provider["options"]["path"]
    (variable,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert variable["query"] == source["type"]
    assert variable["current"]["value"] == source["uid"]
