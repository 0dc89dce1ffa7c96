from __future__ import annotations

import subprocess
import sys

import pytest

from model_runner.registry import BACKENDS, backend
from model_runner.scripted import ScriptedRunner


def test_by_name_and_by_path() -> None:
    assert backend("scripted") is ScriptedRunner
    assert backend("model_runner.scripted:ScriptedRunner") is ScriptedRunner
    with pytest.raises(KeyError):
        backend("nothing")


@pytest.mark.parametrize("name", ["openai", "scripted"])
def test_an_upstream_never_imports_torch(name: str) -> None:
    code = (
        "import sys; from model_runner.registry import backend; "
        f"backend({name!r}); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert name in BACKENDS
