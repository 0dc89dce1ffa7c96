"""Which models the engine serves: by what they declare, and by what they do."""

from __future__ import annotations

import torch

from model_runner.errors import Unsupported
from model_runner.transformers.attention import NAME
from model_runner.transformers.batch import Segment
from model_runner.transformers.model import Model

LAYERS = {"full_attention", "sliding_attention"}
TOKENS = 12
CLOSE = {torch.float32: 1e-3}
ROUGH = 0.1


def check_served(model: Model) -> None:
    """Switch the model to flat batches, and see that it says there what it says alone.

    Raises Unsupported, by the model's name, for one whose state is more than keys and values that
    its attention interface reads (recurrent layers, attention of its own).
    """
    module = model.module
    config = module.config.get_text_config()
    name = type(module).__name__
    others = set(getattr(config, "layer_types", None) or ()) - LAYERS
    if others or getattr(module, "_is_stateful", False):
        kinds = ", ".join(sorted(others)) or "recurrent state"
        raise Unsupported(f"{name} cannot be served: {kinds} is more than keys and values")
    if not getattr(module, "_supports_attention_backend", False):
        raise Unsupported(f"{name} cannot be served: its attention cannot be replaced")
    count = min(TOKENS, model.positions)
    ids = torch.randint(
        model.vocabulary, (count,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    with torch.inference_mode():
        alone = module(torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()
    module.set_attn_implementation(NAME)
    # cut in two, and between the parts of another row
    half = count // 2
    rows = model.store.row(), model.store.row()
    for row in rows:
        model.store.reserve(row, count)
    every = tuple(range(count))
    model.forward([Segment(rows[0], ids[:half], 0), Segment(rows[1], ids, 0, outputs=every)])
    flat = model.forward(
        [
            Segment(rows[0], ids[half:], half, outputs=every[: count - half]),
            Segment(rows[1], ids[:1], count, keep=False),
        ]
    )
    for row in rows:
        model.store.free(row)
    scale = float(alone.std()) or 1.0
    # their mean square: in bfloat16 the largest of a million differences says nothing
    apart = float((flat - alone[half:]).square().mean().sqrt()) / scale
    if not apart <= CLOSE.get(module.dtype, ROUGH):
        raise Unsupported(f"{name} cannot be served: in a batch its logits differ by {apart:.2g}")
