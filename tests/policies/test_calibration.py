"""What the loader does about critique: labels, tables beside the policy, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from filters.calibration import Table, Tables
from filters.registry import JudgeModel, Resources
from filters.rubric import Rubric
from policies.errors import PolicyInvalid
from policies.loader import load

POLICY = """\
policy: p
filters:
  doctor: {critique: {question: "Is it flu?", no: " nope"}}
output:
  - {id: flu, when: {doctor: any}, do: ACTION, examples: {hit: [x], pass: [y]}}
"""


def save(folder: Path, action: str = "block") -> Path:
    file = folder / "p.yaml"
    file.write_text(POLICY.replace("ACTION", action))
    return file


def resources(model: JudgeModel | None = None) -> Resources:
    return Resources(judge=True, model=model or JudgeModel())


def table(model: str, examples: int) -> Table:
    rubric = Rubric.of("Is it flu?", no=" nope")
    return Table(
        question=rubric.question,
        language=rubric.language,
        yes=rubric.yes,
        no=rubric.no,
        model=model,
        prior=0.4,
        examples=examples,
    )


def test_a_label_that_is_no_token_is_refused_at_its_line(tmp_path: Path) -> None:
    model = JudgeModel("m", lambda text: [1] if text == " yes" else [2, 3])
    with pytest.raises(PolicyInvalid) as caught:
        load(save(tmp_path), resources(model))
    assert str(caught.value).startswith(
        f"{tmp_path / 'p.yaml'}:3:47: the label ' nope' is 2 tokens"
    )


def test_the_tables_beside_a_policy_are_part_of_its_version(tmp_path: Path) -> None:
    file, beside = save(tmp_path), tmp_path / "p.calibration.json"
    without = load(file, resources())
    assert beside in without.policy.files  # so that one that comes is noticed
    beside.write_text(Tables().with_table(table("m", 5)).model_dump_json())
    loaded = load(file, resources())
    assert loaded.policy.version != without.policy.version
    assert beside in loaded.policy.files
    beside.write_text("{}")
    assert load(file, resources()).policy.version not in {
        loaded.policy.version,
        without.policy.version,
    }


@pytest.mark.parametrize(
    ("action", "model", "examples", "warns"),
    [
        ("block", "", None, True),
        ("block", "", 0, True),
        ("block", "", 5, False),
        ("block", "m", 5, False),
        ("block", "other", 5, True),
        ("flag", "", None, False),
    ],
)
def test_what_blocks_uncalibrated_is_warned_of(
    tmp_path: Path, action: str, model: str, examples: int | None, *, warns: bool
) -> None:
    file = save(tmp_path, action)
    if examples is not None:
        tables = Tables().with_table(table("m", examples))
        (tmp_path / "p.calibration.json").write_text(tables.model_dump_json())
    warnings = load(file, resources(JudgeModel(model))).warnings
    assert len(warnings) == warns
    if warns:
        assert str(warnings[0]).startswith(f"{file}:5:")
        assert "not calibrated" in warnings[0].message


def test_bad_tables_refuse_the_policy(tmp_path: Path) -> None:
    beside = tmp_path / "p.calibration.json"
    beside.write_text('{"format": 7}')
    with pytest.raises(PolicyInvalid, match=r"p.yaml:3:.*calibration tables: format: "):
        load(save(tmp_path), resources())
    beside.write_text("{")
    file = save(tmp_path)
    file.write_text(file.read_text().replace("filters:", "filters:\n  two: {critique: Is it so?}"))
    with pytest.raises(PolicyInvalid) as caught:
        load(file, resources())
    (problem,) = caught.value.problems  # said once, though both critiques read it
    assert (problem.line, problem.column) == (3, 9)
    assert problem.message.startswith("p.calibration.json: calibration tables: Invalid JSON")


PROBED = """\
policy: p
mode: MODE
filters:
  probed: {probe: french}
PART:
  - {id: f, when: {probed: any}, do: DO, examples: {hit: [x], pass: [y]}}
"""


@pytest.mark.parametrize(
    ("mode", "part", "do", "loads"),
    [
        ("enforce", "output", "block", True),
        ("monitor", "output", "block", False),
        ("enforce", "output", "flag", False),
        ("enforce", "input", "block", False),
    ],
)
def test_a_probe_serves_where_its_scores_come(
    tmp_path: Path, mode: str, part: str, do: str, *, loads: bool
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(PROBED.replace("MODE", mode).replace("PART", part).replace("DO", do))
    with_probe = Resources(probes=frozenset({"french"}))
    if loads:
        assert load(file, with_probe).policy.name == "p"
        with pytest.raises(PolicyInvalid, match=r"p.yaml:4:12: no probe 'french'"):
            load(file, Resources())
    else:
        with pytest.raises(PolicyInvalid, match=r"p.yaml:6:.*a probe reads the model as it writes"):
            load(file, with_probe)
