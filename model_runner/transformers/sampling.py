"""Sampling: pure functions on one row of logits, float32, shape (vocabulary,), on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import torch

from model_runner.errors import BadRequest
from model_runner.types import Sampling

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_PENALTY = 2.0
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
GREEDY_BELOW = 1e-5  # under this temperature the division overflows; it is greedy in effect


def check(sampling: Sampling) -> None:
    """Raises BadRequest, naming the parameter, if these values make no sense."""
    finite = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    for param, value in finite.items():
        if not math.isfinite(value):
            raise BadRequest(f"{param} must be a finite number", param)
    rules = (
        ("temperature", sampling.temperature >= 0, "must not be negative"),
        ("top_p", 0 < sampling.top_p <= 1, "must be over 0 and at most 1"),
        ("n", 1 <= sampling.n <= MAX_CHOICES, f"must be from 1 to {MAX_CHOICES}"),
        (
            "max_tokens",
            sampling.max_tokens is None or sampling.max_tokens >= 1,
            "must be at least 1",
        ),
        (
            "top_logprobs",
            sampling.logprobs is None or 0 <= sampling.logprobs <= MAX_LOGPROBS,
            f"must be from 0 to {MAX_LOGPROBS}",
        ),
        ("presence_penalty", abs(sampling.presence_penalty) <= MAX_PENALTY, "must be from -2 to 2"),
        (
            "frequency_penalty",
            abs(sampling.frequency_penalty) <= MAX_PENALTY,
            "must be from -2 to 2",
        ),
        ("stop", len(sampling.stop) <= MAX_STOPS, f"takes at most {MAX_STOPS} strings"),
        (
            "stop",
            all(0 < len(stop) <= MAX_STOP_LENGTH for stop in sampling.stop),
            f"strings must have 1 to {MAX_STOP_LENGTH} characters",
        ),
    )
    for param, holds, rule in rules:
        if not holds:
            raise BadRequest(f"{param} {rule}", param)


def penalise(
    row: torch.Tensor, counts: Mapping[int, int], *, presence: float, frequency: float
) -> torch.Tensor:
    """OpenAI's penalties: for each token written, `presence` once and `frequency` each time."""
    if not counts or not (presence or frequency):
        return row
    ids = torch.tensor(list(counts), dtype=torch.long)
    times = torch.tensor(list(counts.values()), dtype=row.dtype)
    return row.index_add(0, ids, -(presence + frequency * times))


def ban(row: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    """These tokens cannot be chosen."""
    banned = list(ids)
    return row.index_fill(0, torch.tensor(banned, dtype=torch.long), -math.inf) if banned else row


def choose(
    row: torch.Tensor, *, temperature: float, top_p: float, generator: torch.Generator
) -> int:
    """One token. `top_p`: the smallest set of likeliest tokens whose mass reaches it (nucleus)."""
    if temperature < GREEDY_BELOW:
        return int(row.argmax())
    probabilities = torch.softmax(row / temperature, dim=-1)
    if top_p >= 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ordered, ids = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    nucleus = ordered.masked_fill(before >= top_p, 0.0)
    nucleus[0] = ordered[0]
    return int(ids[int(torch.multinomial(nucleus, 1, generator=generator))])


def generator_at(seed: int, choice: int, position: int) -> torch.Generator:
    """The random stream of one token of one choice.

    Made anew for each position, so that a token depends on neither neighbours nor on how often
    the text was taken back.
    """
    digest = blake2b(f"{seed}:{choice}:{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def logprobs(row: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of `token`, and the `top` likeliest tokens with theirs."""
    values = torch.log_softmax(row, dim=-1)
    best = values.topk(min(top, values.numel()))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return float(values[token]), [(int(i), float(v)) for i, v in pairs]
