"""The distribution: what it carries, what it needs, and that its four names are its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("gateway", "filters", "policies", "model_runner")


def test_no_other_installed_distribution_claims_our_names() -> None:
    claims = packages_distributions()
    for name in NAMES:
        assert set(claims.get(name, ["gardefou"])) == {"gardefou"}
    # An editable install has no top-level list; look at all others' files too.
    for other in distributions():
        if other.metadata["Name"] != "gardefou":
            tops = {file.parts[0] for file in other.files or ()}
            assert not tops & set(NAMES), other.metadata["Name"]


def test_torch_comes_with_the_local_extra_alone() -> None:
    needed = requires("gardefou") or []
    plain = [one for one in needed if "extra ==" not in one]
    assert not any(one.startswith(("torch", "transformers")) for one in plain)
    assert any(one.startswith("torch") and "local" in one for one in needed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel."""
    where = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(where)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [built] = where.glob("*.whl")
    assert built.stat().st_size < 60 * 1024 * 1024
    with ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_all_files_that_git_has(wheel: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", *NAMES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"policies/library/default.yaml", "gateway/limits/admit.lua"} <= set(listed)
    assert set(listed) <= wheel


def test_the_wheel_carries_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {*NAMES, "gardefou"}


def test_constraints_pin_everything_and_torch_without_a_build() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert all("+" not in version for version in pins.values())
    assert {"transformers", "fastapi", "redis", "regex", "uvicorn"} <= set(pins)
