"""Layers with weights in oneDNN's order say what plain ones say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from model_runner.transformers.half import WideLinear
from model_runner.transformers.packed import DTYPES, PackedLinear, pack
from tests.support import tiny


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 16, 46, 300])
def test_a_packed_layer_says_the_same(dtype: torch.dtype, bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 130, bias=bias, dtype=dtype)
    layers = nn.Sequential(plain)
    pack(layers)
    packed = type(layers[0]) is PackedLinear
    if not (packed or dtype == torch.float32 or torch.cpu._is_avx512_supported()):
        pytest.skip("oneDNN takes no bfloat16 on this processor: the layer stayed as it was")
    assert packed
    for shape in ((rows, 48), (1, rows, 48), (2, 3, rows, 48)):
        x = torch.randn(shape, dtype=dtype)
        with torch.inference_mode():
            expected, made = plain(x), layers(x)
        assert made.dtype == dtype
        near = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(made, expected, atol=near, rtol=near)


def test_plain_layers_are_packed_and_others_are_not(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        expected = model(ids).logits
        pack(model)
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert not [m for m in model.modules() if type(m) is nn.Linear]
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    wide = nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.Linear(8, 8).double())
    wide[0].__class__ = WideLinear
    pack(wide)
    assert [type(layer) for layer in wide] == [WideLinear, nn.Linear]


def test_layers_stay_where_the_library_is_not_there_or_says_other_things(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    pack(layers, apart=0.0)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Linear]
    (record,) = caplog.records
    assert record.message.startswith("linear layers keep torch's own layout: products differ by ")
