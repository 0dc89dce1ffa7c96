"""Sampling: from a batch of logits, (rows, vocabulary), float32, to one token for each row.

Order: logit bias, repetition penalty, presence and frequency penalties, bans; then temperature,
top-k, top-p (of what top-k left), min-p. A row's token depends on its own logits and its own random
stream alone. The draw is an exponential race (the largest p / e, e exponential; in other words the
Gumbel trick), which rounding hardly ever turns, unlike a search in a cumulative sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from model_runner.types import Sampling

GREEDY_BELOW = 1e-5  # under this temperature the division overflows; it is greedy in effect
CANDIDATES = 64  # of the likeliest tokens, looked at first for top-p; all of them next


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's token to come: the one at `position` of the answer.

    read: ids of the prompt. written: those of the answer, if the parameters ask for them.
    """

    sampling: Sampling
    seed: int
    choice: int
    position: int
    read: Sequence[int] = ()
    written: Sequence[int] = ()
    banned: Collection[int] = ()

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature < GREEDY_BELOW


def remembers(asked: Sampling) -> bool:
    """Whether what was written changes what comes next."""
    return bool(
        asked.repetition_penalty != 1.0 or asked.presence_penalty or asked.frequency_penalty
    )


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """One token for each row; `logits` stay as they are."""
    if any(map(_adjusts, draws)):
        logits = torch.stack(
            [
                adjust(row, draw) if _adjusts(draw) else row
                for row, draw in zip(logits, draws, strict=True)
            ]
        )
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [i for i, draw in enumerate(draws) if not draw.greedy]
    if drawn:
        picked = _draw(
            logits if len(drawn) == len(draws) else logits[drawn], [draws[i] for i in drawn]
        )
        for i, token in zip(drawn, picked, strict=True):
            tokens[i] = token
    return tokens


def _adjusts(draw: Draw) -> bool:
    asked = draw.sampling
    return bool(asked.logit_bias or draw.banned or remembers(asked))


def adjust(row: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A copy of one row, (vocabulary,), with what is asked added, subtracted and banned."""
    asked, row = draw.sampling, row.clone()

    def index(ids: Collection[int]) -> torch.Tensor:
        return torch.tensor(list(ids), dtype=torch.long, device=row.device)

    if asked.logit_bias:
        values = torch.tensor(list(asked.logit_bias.values()), dtype=row.dtype, device=row.device)
        row.index_add_(0, index(asked.logit_bias), values)
    if asked.repetition_penalty != 1.0:
        seen = index({*draw.read, *draw.written})
        values, by = row[seen], asked.repetition_penalty
        row[seen] = torch.where(values > 0, values / by, values * by)
    if draw.written and (asked.presence_penalty or asked.frequency_penalty):
        counts = Counter(draw.written)
        times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
        row.index_add_(
            0, index(counts), -(asked.presence_penalty + asked.frequency_penalty * times)
        )
    if draw.banned:
        row[index(draw.banned)] = -math.inf
    return row


def _draw(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    temperatures = torch.tensor([[draw.sampling.temperature] for draw in draws])
    probabilities = torch.softmax(logits / temperatures.to(logits.device), dim=-1)
    probabilities = probabilities * (probabilities >= _floors(probabilities, draws))
    noise = torch.empty_like(probabilities)
    generator = torch.Generator(logits.device)
    for row, draw in zip(noise, draws, strict=True):
        row.uniform_(generator=generator.manual_seed(stream(draw)))
    # Exponential by the logarithm, several times faster than `exponential_`; never 0, as u < 1.
    picked: list[int] = (probabilities / noise.log_().neg_()).argmax(dim=-1).tolist()
    return picked


def stream(draw: Draw) -> int:
    """The seed of one token of one choice.

    Made anew for each position, so that a token depends on neither neighbours nor on how often
    the text was taken back.
    """
    key = f"{draw.seed}:{draw.choice}:{draw.position}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1


def _floors(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """(rows, 1): no token less likely than this may be chosen."""
    floors = torch.zeros(len(draws), 1, device=probabilities.device)
    cut = [
        i
        for i, draw in enumerate(draws)
        if draw.sampling.top_p < 1 or (draw.sampling.top_k or 0) > 0
    ]
    if cut:
        floors[cut] = _nucleus(
            probabilities if len(cut) == len(draws) else probabilities[cut],
            [draws[i].sampling for i in cut],
        )
    low = [draw.sampling.min_p for draw in draws]
    if any(low):
        least = torch.tensor(low, device=probabilities.device)[:, None]
        floors = torch.maximum(floors, least * probabilities.amax(dim=-1, keepdim=True))
    return floors


def _nucleus(probabilities: torch.Tensor, asked: Sequence[Sampling]) -> torch.Tensor:
    """The probability of the last token that top-k and top-p leave: (rows, 1).

    Of the k likeliest tokens, the smallest set whose share of their mass reaches p (Holtzman et
    al. 2020, https://arxiv.org/abs/1904.09751).
    """
    width = probabilities.shape[-1]
    device = probabilities.device
    most = torch.tensor([[min(one.top_k or width, width)] for one in asked], device=device)
    mass = torch.tensor([[one.top_p] for one in asked], device=device)
    looked = min(CANDIDATES, width)
    while True:
        best = (
            probabilities.sort(dim=-1, descending=True).values
            if looked == width
            else probabilities.topk(looked, dim=-1).values
        )
        whole = torch.where(
            most < width,
            (best * (torch.arange(looked, device=device) < most)).sum(-1, keepdim=True),
            1.0,
        )
        before = best.cumsum(dim=-1) - best
        inside = (before < mass * whole) & (torch.arange(looked, device=device) < most)
        inside[:, 0] = True
        partial = (most > looked) & ((most < width) | inside[:, -1:])
        if looked == width or not bool(partial.any()):
            kept = inside.sum(dim=-1, keepdim=True)
            return best.gather(-1, kept - 1)
        looked = width


#: The log probability of a token, and the likeliest tokens of its place with theirs.
Logprob = tuple[float, list[tuple[int, float]]]


def told(
    logits: torch.Tensor, draws: Sequence[Draw], tokens: Sequence[int]
) -> list[Logprob | None]:
    """What is to be told of the probability of each row's token; None where nothing is asked."""
    asked = [(i, n) for i, one in enumerate(draws) if (n := one.sampling.logprobs) is not None]
    found: list[Logprob | None] = [None] * len(tokens)
    if asked:
        rows = [i for i, _ in asked]
        made = _logprobs(logits[rows], [tokens[i] for i in rows], [n for _, n in asked])
        for i, one in zip(rows, made, strict=True):
            found[i] = one
    return found


def _logprobs(logits: torch.Tensor, tokens: Sequence[int], top: Sequence[int]) -> list[Logprob]:
    """top: how many of the likeliest, for each row."""
    values = torch.log_softmax(logits, dim=-1)
    chosen = values.gather(-1, torch.tensor(tokens, device=values.device)[:, None])[:, 0].tolist()
    best = values.topk(min(max(top), values.shape[-1]), dim=-1)
    pairs = [
        list(zip(ids, ps, strict=True))
        for ids, ps in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [(p, pair[:few]) for p, pair, few in zip(chosen, pairs, top, strict=True)]
