"""An installation without the extra `local`: what needs it says so, in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
NEEDED = "needs `pip install 'gardefou[local]'`"


def gardefou(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"{WITHOUT}from gateway.cli import main; main({list(words)!r})"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        ("classifier 'c'", '[classifiers.c]\nmodel = "m"\nlabels = {LABEL_1 = "toxicity"}'),
        ("detector 'd'", '[detectors.d]\nmodel = "m"\nlabels = {PER = "person"}'),
        ("guard 'g' with a `model`", '[guards.g]\ntemplate = "llama-guard-3"\nmodel = "m"'),
    ],
)
def test_models_in_the_settings(named: str, settings: str, tmp_path: Path) -> None:
    (tmp_path / "gardefou.toml").write_text(settings)
    ended = gardefou(tmp_path, "policy", "lint", "default", "--config", "gardefou.toml")
    assert named in ended.stderr
    assert NEEDED in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode not in (0, None)


@pytest.mark.parametrize("words", [("serve", "--check", "--data", "d"), ("train", "classifier")])
def test_commands(words: tuple[str, ...], tmp_path: Path) -> None:
    if words[0] == "train":
        words = (*words, "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    ended = gardefou(tmp_path, *words)
    assert NEEDED in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1


def test_a_gateway_in_front_of_another_engine_needs_none(tmp_path: Path) -> None:
    ended = gardefou(tmp_path, "policy", "lint", "default")
    assert ended.returncode == 0, ended.stderr
