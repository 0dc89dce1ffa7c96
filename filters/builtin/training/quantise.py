"""Writes a network's weights as `filters.builtin.graph` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised
from torch import Tensor, nn

from filters.builtin.graph import contents, reading
from filters.builtin.training.batches import pad
from filters.builtin.training.calibrate import Calibration
from filters.builtin.training.encoder import Network


@torch.no_grad()
def input_ranges(
    network: Network, ids: Sequence[Sequence[int]], *, share: float = 0.9999
) -> Mapping[str, float]:
    """For each linear layer the size that `share` of its inputs' numbers stay below.

    The last layers, behind the pools, run on floats and have no range.
    """
    seen: dict[str, list[float]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("layers."):

            def look(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                flat = given[0].abs().flatten()
                kept = flat.kthvalue(max(1, int(share * len(flat)))).values
                seen.setdefault(name, []).append(float(kept))

            hooks.append(module.register_forward_pre_hook(look))
    network.eval()
    for start in range(0, len(ids), 32):
        network(*pad(ids[start : start + 32], network.device))
    for hook in hooks:
        hook.remove()
    return {name: sorted(sizes)[len(sizes) * 9 // 10] for name, sizes in seen.items()}


def read(path: Path) -> dict[str, Tensor]:
    """The network's weights from a file that `save` wrote, as floats again.

    Raises FilterConfigError.
    """
    stored, _ = contents(path)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in stored.items()}
    state = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "rows":
            state[f"{layer}.weight"] = tensor.float() * tensors[f"{layer}.scales"][:, None]
        elif kind not in ("scales", "largest"):
            state[name] = tensor.float()
    return state


def calibration(path: Path) -> Calibration:
    """That of a file that `save` wrote. Raises FilterConfigError."""
    _, about = contents(path)
    with reading(path):
        said = about["calibration"]
        return Calibration(torch.tensor(said["slope"]), torch.tensor(said["shift"]))


def save(
    network: Network, ranges: Mapping[str, float], path: Path, more: Mapping[str, Any]
) -> None:
    """more: what else the file says; `calibration` with `slope` and `shift` is needed to score."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.cpu().state_dict().items():
        layer, _, kind = name.rpartition(".")
        if name == "tokens.weight" or (layer in ranges and kind == "weight"):
            scales = tensor.abs().amax(1).clamp(min=1e-8) / 127
            tensors[f"{layer}.rows"] = (tensor / scales[:, None]).round().to(torch.int8)
            tensors[f"{layer}.scales"] = scales
            if layer in ranges:
                tensors[f"{layer}.largest"] = torch.tensor(ranges[layer])
        else:
            tensors[name] = tensor.half() if name == "positions.weight" else tensor.clone()
    described = {"shape": asdict(network.shape), **more}
    # Not `save_file`, whose file nobody else may read.
    path.write_bytes(serialised(tensors, metadata={"about": json.dumps(described)}))
