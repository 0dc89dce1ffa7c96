from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from model_runner.transformers.runner import TransformersRunner
from tests.support import tiny
from tests.support.generations import ask, read, user

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("mixtral", [False, True])
async def test_bfloat16_on_the_gpu(tmp_path: Path, mixtral: bool) -> None:
    tiny.save(tmp_path, mixtral=mixtral, ascii_only=True)
    runner = TransformersRunner(str(tmp_path))
    await runner.start()
    request = user("Hello", temperature=0.0, max_tokens=32)
    (answer,) = await ask(runner, request)
    written = [token for delta in answer.deltas for token in delta.token_ids]
    assert runner._loaded
    assert request.messages
    head = runner._loaded.prompts.render(request.messages)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.to("cuda")
    prompt = torch.tensor([head], device="cuda")
    made = model.generate(prompt, do_sample=False, max_new_tokens=32)
    assert written == made[0, len(head) :].tolist()
    assert runner._loaded.model.module.dtype == torch.bfloat16

    (generation,) = await runner.open(request)
    first = await read(generation)
    score = await generation.score("?", (" yes", " no"), at=3)
    assert 0 < sum(score.values()) < 1
    await generation.rewind(len(first.text) // 2)
    rest = await read(generation)
    cuts = {end for delta in answer.deltas for end in delta.token_ends}
    if len(first.text) // 2 in cuts:
        assert first.text[: len(first.text) // 2] + rest.text == answer.text
    await runner.close()
