from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_runner.transformers.runner import TransformersRunner
from model_runner.types import ModelRunner
from tests.contracts.model_runner import ModelRunnerContract


class TestTransformers(ModelRunnerContract):
    @pytest.fixture
    async def runner(self, tame: Path) -> AsyncIterator[ModelRunner]:
        runner = TransformersRunner(str(tame), device="cpu")
        await runner.start()
        yield runner
        await runner.close()
