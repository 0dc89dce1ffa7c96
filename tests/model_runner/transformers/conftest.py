from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_runner.transformers.runner import TransformersRunner
from tests.support import tiny


@pytest.fixture(scope="session", params=["mistral", "mixtral"])
def wild(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes anything: special tokens, halves of characters."""
    folder = tmp_path_factory.mktemp(request.param)
    return tiny.save(folder, mixtral=request.param == "mixtral")


@pytest.fixture(scope="session")
def tame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes ASCII."""
    return tiny.save(tmp_path_factory.mktemp("tame"), ascii_only=True)


@pytest.fixture
async def runner(wild: Path) -> AsyncIterator[TransformersRunner]:
    runner = TransformersRunner(str(wild), device="cpu")
    await runner.start()
    yield runner
    await runner.close()


@pytest.fixture
async def plain(tame: Path) -> AsyncIterator[TransformersRunner]:
    runner = TransformersRunner(str(tame), device="cpu")
    await runner.start()
    yield runner
    await runner.close()
