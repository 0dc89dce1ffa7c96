"""`gardefou train classifier`: what it says of bases and of rows that it cannot begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "0.5"], "1 --share for 2 --base"),
        (["--share", "0.5", "--share", "0"], "--share"),
        (["--minutes", "0"], "no classifier.safetensors to take a mean of"),
        (["--keep", "0.5"], "no classifier.safetensors to keep of"),
    ],
)
def test_bases_that_have_no_mean_are_named(tmp_path: Path, options: list[str], said: str) -> None:
    bases = [tmp_path / name for name in ("one", "other")]
    for base in bases:
        base.mkdir()
    args = ["train", "classifier", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    named = [word for base in bases for word in ("--base", str(base))]
    answer = CliRunner().invoke(main, [*args, *named, *options])
    assert answer.exit_code == 2
    assert said in answer.output


def test_the_same_base_twice_is_refused(tmp_path: Path) -> None:
    args = ["train", "classifier", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(main, [*args, *(["--base", str(tmp_path)] * 2)])
    assert answer.exit_code == 2
    assert "the same folder twice" in answer.output


def test_rows_that_are_none_are_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "own.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    args = ["train", "classifier", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(main, [*args, "--minutes", "0", "--made", "1"])
    assert answer.exit_code == 1
    assert "own.jsonl:1: labels: " in answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
