"""The JSON Schema for editors takes what the loader takes, and points at what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from policies.document import Document
from policies.loader import library
from policies.schema import PolicySpec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
RULE = "policy: p\nfilters: {f: {pack: injection}}\ninput:\n  - "


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = PolicySpec.model_json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", [*library().values(), *EXAMPLES], ids=lambda path: path.name)
def test_policies_are_valid(path: Path, validator: Any) -> None:
    data = Document(path.read_text(encoding="utf-8"), str(path)).data
    assert [error.message for error in validator.iter_errors(data)] == []


@pytest.mark.parametrize(
    ("rule", "valid"),
    [
        ("{id: a, when: {f: any}, do: block}", True),
        ("{id: a, when: {f: [x, y], at: 0.7, except: z}, do: flag}", True),
        ("{id: a, when: {f: any}, do: block, roles: user, say: no, examples: {hit: x}}", True),
        ("{id: a, when: {f: any}, do: block, roles: [user], say: {fr: non}}", True),
        ("{id: a, when: {f: any}, do: redact, examples: {hit: {x: y}, pass: [z]}}", True),
        ("{id: a, when: {f: any}, do: redact, with: tag}", True),
        ("{id: a, when: {f: any}, do: redact, with: {mask: 4}}", True),
        ("{id: a, when: {f: any}, do: redact, with: {hash: x}}", True),
        ("{id: a, when: {f: any}, do: redact, with: {text: ''}}", True),
        ("{id: a, when: {f: any}, do: redact, with: {mask: 99}}", False),
        ("{id: a, when: {f: any}, do: redact, with: {mask: 4, text: x}}", False),
        ("{id: a, when: {f: any}, do: redact, with: {hide: 4}}", False),
        ("{id: a, when: {f: any}, do: redact, with: stars}", False),
        ("{id: a, when: {f: 3}, do: block}", False),
        ("{id: a, when: {f: any, at: 2}, do: block}", False),
        ("{id: a, when: {f: any}, do: blok}", False),
        ("{id: a, when: {f: any}, do: block, say: {pt-BR: não, gsw: nei}}", True),
        ("{id: a, when: {f: any}, do: block, say: {english: no}}", False),
        ("{id: a, when: {f: any}, do: block, say: {}}", False),
        ("{id: a, when: {f: any}, do: block, roles: king}", False),
        ("{id: a, when: {f: any}, do: block, rolls: user}", False),
        ("{id: a, do: block}", False),
    ],
)
def test_editor_and_loader_agree(rule: str, valid: bool, validator: Any) -> None:
    data = Document(RULE + rule, "p.yaml").data
    assert validator.is_valid(data) == valid
    try:
        PolicySpec.model_validate(data)
    except ValueError:
        assert not valid
    else:
        assert valid
