"""Muon in float32. `torch.optim.Muon` orthogonalises in bfloat16, which most CPUs emulate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

_STEPS = ((3.4445, -4.7750, 2.0315),) * 5  # Newton-Schulz, Jordan et al., Muon, 2024


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly the orthogonal factor of each of [n, rows, columns] (singular values near 1)."""
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    for a, b, c in _STEPS:
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(a * x, torch.baddbmm(b * gram, gram, gram, beta=1, alpha=c), x)
    return x if wide else x.transpose(1, 2)


def _shared_out(grads: Tensor) -> Tensor:
    """`orthogonalize`, each process of the group taking its share of the matrices."""
    if not dist.is_initialized():
        return orthogonalize(grads)
    rank, world = dist.get_rank(), dist.get_world_size()
    updates = torch.zeros_like(grads)
    if len(grads) > rank:
        updates[rank::world] = orthogonalize(grads[rank::world])
    dist.all_reduce(updates)
    return updates


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose updates of the matrices are orthogonalised.

    The step is scaled by 0.2 * sqrt(larger side), so that learning rates are as for AdamW
    (Liu et al., Muon is Scalable, 2025). Matrices of one shape go through one batched product.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                grads = torch.stack([self._direction(p, group["momentum"]) for p in params])
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                for p, update in zip(params, _shared_out(grads), strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(update, alpha=-scale)

    def _direction(self, p: Parameter, momentum: float) -> Tensor:
        assert p.grad is not None  # noqa: S101 - the caller looked
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        average: Tensor = state["momentum"]
        average.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)
