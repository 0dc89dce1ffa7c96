"""Fits the network to the rows, on one process or several that average their weights."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.batches import by_length, pad
from filters.builtin.training.encoder import Network
from filters.builtin.training.examples import Example


@dataclass(frozen=True, slots=True)
class Plan:
    """minutes: time that the fit takes, over which the learning rates fall to nothing.

    rates: of the token embeddings, the encoder, the head. average: steps between averages over the
    processes (local SGD, Stich 2019). bfloat16: products in it, a quarter quicker where there
    are instructions for it (six layers, 2,000 tokens a step, one core: 1.24 s against 1.64).
    """

    minutes: float
    seed: int = 0
    tokens: int = 2000
    rates: tuple[float, float, float] = (4e-4, 1e-4, 1e-3)
    average: int = 20
    warm_up: int = 20
    bfloat16: bool = False


def loss(network: Network, batch: Sequence[Example], *, bfloat16: bool = False) -> Tensor:
    """Binary cross-entropy over the labels that are known."""
    device = network.device
    ids, mask = pad([one.ids for one in batch], device)
    targets = torch.tensor([one.targets for one in batch], device=device)
    weights = torch.tensor([one.weights for one in batch], device=device)
    with _attention(device), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(ids, mask).float()
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (each * weights).sum() / weights.sum()


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """How attention is computed while the network learns.

    On CPUs by plain products: a third of a step was spent on the fused kernel's way back (2,000
    tokens a step, texts of 20, 60 and 128 tokens, one core of a Zen 5, bfloat16: 0.64, 0.67 and
    0.73 s a step against 0.91, 0.82 and 0.80; with the fused optimizer 0.56 s at 60 tokens).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class Fit:
    """One process's share of a fit. `rank` of `size` processes; the examples are its own."""

    def __init__(
        self, network: Network, examples: Sequence[Example], plan: Plan, *, rank: int, size: int
    ) -> None:
        self.network = network
        self.steps = 0
        self.spent = 0.0  # minutes, earlier runs included
        self._examples = list(examples)
        self._plan = plan
        self._size = size
        self._chance = random.Random(f"{plan.seed} {rank}")
        head = [*network.hidden.parameters(), *network.scores.parameters()]
        known = {id(p) for p in [*head, network.tokens.weight]}
        trunk = [p for p in network.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [network.tokens.weight]},
            {"params": trunk},
            {"params": head},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=0.0,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            fused=True,
        )

    def run(
        self, tell: Callable[[float, float], None], save: Callable[[], None], *, until: float
    ) -> None:
        """Step until `until` minutes are spent. tell: share done, loss; save: every two minutes."""
        plan, network = self._plan, self.network
        began, saved = time.monotonic() - 60 * self.spent, time.monotonic()
        network.train()
        for batch in self._batches():
            self._rates()
            value = loss(network, batch, bfloat16=plan.bfloat16)
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self.steps += 1
            if self.steps % plan.average == 0:
                # The clock is averaged with the weights, so that all processes stop together.
                self.spent = self._average((time.monotonic() - began) / 60)
                tell(min(1.0, self.spent / plan.minutes), float(value.detach()))
                if time.monotonic() - saved > 120:
                    save()
                    saved = time.monotonic()
                if self.spent >= until:
                    break
        save()

    def add(self, examples: Sequence[Example]) -> None:
        """More to learn from, in the next `run`."""
        self._examples += examples

    def _batches(self) -> Iterator[list[Example]]:
        lengths = [len(one.ids) for one in self._examples]
        while True:
            for places in by_length(lengths, tokens=self._plan.tokens, chance=self._chance):
                yield [self._examples[place] for place in places]

    def _rates(self) -> None:
        plan = self._plan
        left = max(0.02, 1 - self.spent / plan.minutes)
        scale = left * min(1.0, (self.steps + 1) / plan.warm_up)
        for group, rate in zip(self._optimizer.param_groups, plan.rates, strict=True):
            group["lr"] = rate * scale

    @torch.no_grad()
    def _average(self, minutes: float) -> float:
        if self._size == 1:
            return minutes
        parameters = list(self.network.parameters())
        flat = torch.cat([*(p.view(-1) for p in parameters), torch.tensor([minutes])])
        distributed.all_reduce(flat)
        flat /= self._size
        at = 0
        for parameter in parameters:
            parameter.copy_(flat[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()
        return float(flat[-1])

    def state(self) -> dict[str, object]:
        """What `resume` takes."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "minutes": self.spent,
        }

    def resume(self, path: Path) -> None:
        """Go on from a file that holds `state()`."""
        state = torch.load(path, map_location=self.network.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps, self.spent = int(state["steps"]), float(state["minutes"])


@torch.no_grad()
def predict(network: Network, ids: Sequence[Sequence[int]], *, tokens: int = 4000) -> Tensor:
    """Logits [texts, categories] in the order given."""
    network.eval()
    logits = torch.empty(len(ids), len(CATEGORIES))
    for places in by_length([len(row) for row in ids], tokens=tokens, chance=random.Random(0)):
        padded = pad([ids[place] for place in places], network.device)
        logits[list(places)] = network(*padded).cpu()
    return logits
