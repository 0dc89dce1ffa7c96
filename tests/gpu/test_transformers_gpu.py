from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from model_runner.transformers.attention import NAME
from model_runner.transformers.batch import Row, Segment
from model_runner.transformers.decode import decoder
from model_runner.transformers.kernel_choice import Heads, kernels_for
from model_runner.transformers.model import Model
from model_runner.transformers.paged_attention import PAGE, PLAIN
from model_runner.transformers.pages import PagedStore
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


LENGTHS = (3, PAGE - 1, PAGE, 1, 900, 2500)


def _made(device: torch.device, window: int | None) -> Any:
    torch.manual_seed(5)
    config = MistralConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        sliding_window=window,
        initializer_range=0.1,
    )
    module: Any = MistralForCausalLM(config)
    module.set_attn_implementation(NAME)
    return module.to(device, torch.bfloat16).eval()


def _store(device: torch.device, window: int | None = None) -> PagedStore:
    kernels = kernels_for(device, torch.bfloat16, Heads(8, 2, 32, window))
    return PagedStore(64 * PAGE, 1, device, kernels)


def test_better_kernels_than_the_plain_ones_are_used(caplog: pytest.LogCaptureFixture) -> None:
    """With every torch that is supported; where it fails, the reason is in the log."""
    device = torch.device("cuda", torch.cuda.current_device())
    kernels = kernels_for(device, torch.bfloat16, Heads(32, 8, 128, 4096))
    assert kernels is not PLAIN
    assert not caplog.records


def _rows(model: Model, lengths: tuple[int, ...]) -> list[Row]:
    rows = []
    for number, length in enumerate(lengths):
        row = model.store.row()
        model.store.reserve(row, length + 16)
        model.forward([Segment(row, [(number + i) % 512 for i in range(length)], 0)])
        rows.append(row)
    return rows


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("window", [None, 64], ids=["whole", "window"])
def test_replayed_graphs_say_what_flat_steps_say(
    window: int | None, compiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Streams come and go between replays, and the longest needs keys split over passes."""
    device = torch.device("cuda", torch.cuda.current_device())
    module = _made(device, window)
    stores = [_store(device, window) for _ in range(2)]
    flat, graphed = (Model(module, device, 512, 4096, frozenset(), store) for store in stores)
    steps = decoder(module, stores[1], rows=8, positions=4096, compiled=compiled)
    graphed = replace(graphed, decoder=steps)
    one, other = _rows(flat, LENGTHS), _rows(graphed, LENGTHS)
    assert graphed.decoder is not None
    graphed.decoder.prepare()
    for step in range(12):
        count = 1 + step % len(LENGTHS)
        asked = [
            [
                Segment(row, [(step + 7 * n) % 512], row.length, outputs=(0,))
                for n, row in enumerate(rows[-count:])
            ]
            for rows in (one, other)
        ]
        expected, made = flat.forward(asked[0]), graphed.forward(asked[1])
        apart = float((made - expected).abs().max() / expected.std())
        assert apart < 0.1, f"step {step}, {count} streams"
    assert not caplog.records  # each was captured


def test_attention_over_pages_says_what_sdpa_says() -> None:
    """Prompts in pieces, in one batch with others; keys of several pages."""
    device = torch.device("cuda", torch.cuda.current_device())
    module = _made(device, None)
    store = _store(device)
    model = Model(module, device, 512, 4096, frozenset(), store)
    texts = [[(7 * n + i) % 512 for i in range(length)] for n, length in enumerate(LENGTHS)]
    rows: list[Row] = []
    for text in texts:
        row = store.row()
        store.reserve(row, len(text))
        rows.append(row)
    pieces = [(row, text, len(text) // 2) for row, text in zip(rows, texts, strict=True)]
    model.forward([Segment(row, text[:half], 0) for row, text, half in pieces if half])
    made = model.forward(
        [
            Segment(row, text[half:], half, outputs=(len(text) - half - 1,))
            for row, text, half in pieces
        ]
    )
    module.set_attn_implementation("sdpa")
    for number, text in enumerate(texts):
        with torch.inference_mode():
            alone = module(torch.tensor([text], device=device)).logits[0, -1].float()
        assert float((made[number] - alone).abs().max() / alone.std()) < 0.1, len(text)
