"""Turns logits into scores whose 0.5 is a threshold with a stated share of false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from filters.builtin.categories import CATEGORIES

#: False-positive rates that the card gives thresholds for.
RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

#: The logit of even odds.
EVEN = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = sigmoid(slope * logit + shift), one slope and one shift per category."""

    slope: Tensor
    shift: Tensor

    def scores(self, logits: Tensor) -> Tensor:
        """logits [texts, categories]."""
        return torch.sigmoid(logits * self.slope + self.shift)


def temperature(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope and shift that fit one category's targets best (Platt 1999). All 1-d, float."""
    line = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")
    share = targets.mean().clamp(0.01, 0.99)
    weights = torch.where(targets > 0.5, 0.5 / share, 0.5 / (1 - share))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(
            logits * line[0] + line[1], targets, weight=weights
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return max(0.05, float(line[0].detach())), float(line[1].detach())


def threshold(harmless: Tensor, rate: float) -> float:
    """The logit that a share `rate` of the harmless texts' logits lie above."""
    ordered = harmless.sort(descending=True).values
    return float(ordered[min(len(ordered) - 1, int(rate * len(ordered)))])


def calibrate(
    logits: Tensor,
    known: Tensor,
    targets: Tensor,
    ordinary: Tensor,
    rates: Mapping[str, float],
) -> Calibration:
    """The slope from all rows by temperature; the shift so that 0.5 is where `rates` want it.

    But 0.5 is never below even odds: where ordinary texts lie far off, `rates` alone would take a
    text for harmful that the network itself thinks more likely harmless.

    logits, known, targets: [texts, categories] of the calibration split; `known` is false where a
    label is missing. ordinary: logits of ordinary, harmless texts, by which the share of false
    alarms is measured. rates: that share, per category.
    """
    slopes, shifts = [], []
    for place, category in enumerate(CATEGORIES):
        there = known[:, place]
        slope, _ = temperature(logits[there, place], (targets[there, place] >= 0.5).float())
        slopes.append(slope)
        shifts.append(-slope * max(EVEN, threshold(ordinary[:, place], rates[category])))
    return Calibration(torch.tensor(slopes), torch.tensor(shifts))


def thresholds(scores: Tensor, rates: Sequence[float] = RATES) -> Mapping[str, Mapping[str, float]]:
    """For each category and false-positive rate the score to set, from ordinary texts' scores."""
    return {
        category: {str(rate): round(threshold(scores[:, place], rate), 4) for rate in rates}
        for place, category in enumerate(CATEGORIES)
    }
