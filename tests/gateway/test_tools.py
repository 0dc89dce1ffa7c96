"""`gardefou policy test`, `screen` and `eval`: policies that only monitor, filters that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main

MONITOR = """
policy: tried
mode: monitor
filters:
  words: {regex: {insult: 'idiot'}}
  tone: {classifier: builtin}
input:
  - id: insult
    when: {words: insult}
    do: block
    examples: {hit: ["You idiot"], pass: ["You there"]}
  - id: tone
    when: {tone: hate, at: 0.6}
    do: flag
    examples: {hit: ["I hate all immigrants, they are vermin"], pass: ["I like tea"]}
"""
FAILING = """
policy: failing
filters: {guard: {guard: asked}}
input:
  - id: harm
    when: {guard: any}
    do: block
    examples: {hit: ["a"], pass: ["b"]}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (file := tmp_path / "p.yaml").write_text(MONITOR, encoding="utf-8")
    return file


@pytest.fixture
def failing(tmp_path: Path) -> tuple[Path, Path]:
    """A policy that asks a guard, and settings that have it asked of the engine that answers."""
    (file := tmp_path / "failing.yaml").write_text(FAILING, encoding="utf-8")
    (config := tmp_path / "own.toml").write_bytes(
        b'\xef\xbb\xbf[guards.asked]\ntemplate = "llama-guard-3"\n'
    )
    return file, config


def run(*words: str | Path, text: bytes | None = None) -> Any:
    return CliRunner().invoke(main, list(map(str, words)), input=text)


def test_examples_of_a_policy_that_monitors_are_run_as_if_it_were_in_force(policy: Path) -> None:
    done = run("policy", "test", policy, "--cuts", "3")
    assert (done.exit_code, done.stdout) == (0, f"{policy}: 4 passed, 0 failed, 0 skipped\n")


def test_screen_shows_what_a_policy_that_monitors_would_do(policy: Path) -> None:
    rows = b'\xef\xbb\xbf{"text": "You idiot"}\n{"text": "You there"}\n'
    done = run("screen", "--policy", policy, text=rows)
    assert done.exit_code == 0
    assert [json.loads(line)["action"] for line in done.stdout.splitlines()] == ["block", "allow"]


def test_a_byte_order_mark_is_no_part_of_a_line(policy: Path) -> None:
    done = run("screen", "--policy", policy, "--format", "lines", text="\ufeffa b".encode())
    assert json.loads(done.stdout)["text"] == "a b"


def test_eval_measures_a_policy_that_monitors(policy: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = tmp_path / "rows.jsonl"
    data.write_text(
        '{"text": "idiot", "labels": {"insult": 1}}\n{"text": "tea", "labels": {"insult": 0}}\n'
    )
    done = run("eval", "--policy", policy, "--data", data, "--json", "--resamples", "0")
    [group] = [
        one
        for one in json.loads(done.stdout)["groups"]
        if (one["category"], one["lang"]) == ("insult", "all")
    ]
    assert group["recall"]["value"] == 1.0


def test_screen_says_which_filter_failed_and_ends_with_1(failing: tuple[Path, Path]) -> None:
    file, config = failing
    done = run("screen", "--policy", file, "--config", config, text=b'{"text": "x"}\n')
    assert done.exit_code == 1
    assert "<stdin>:1: `guard` failed: asked: there is no engine to ask" in done.stderr
    assert json.loads(done.stdout)["action"] == "block"


def test_a_guard_that_has_no_engine_is_skipped(failing: tuple[Path, Path]) -> None:
    file, config = failing
    done = run("policy", "test", file, "--config", config)
    assert done.exit_code == 0
    assert "0 passed, 0 failed, 1 skipped" in done.stdout


def test_a_guard_whose_tokens_the_engine_has_not_is_told(failing: tuple[Path, Path]) -> None:
    file, config = failing
    done = run("policy", "test", file, "--config", config, "--judge")
    assert done.exit_code == 1
    assert "guard asked: the model has no token <|begin_of_text|>" in done.stderr
