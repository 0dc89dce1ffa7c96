"""What every runner refuses before it admits a request."""

from __future__ import annotations

from typing import Final

from model_runner.errors import BadRequest, Unsupported
from model_runner.types import Capabilities, GenerateRequest, Sampling

_RANGES: Final = (
    ("temperature", 0.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)
MAX_LOGPROBS: Final = 20


def check(request: GenerateRequest, capabilities: Capabilities) -> None:
    """Refuse parameters that make no sense, and those this engine cannot serve.

    Raises: BadRequest and Unsupported, with `param` by its OpenAI name and no user's text.
    """
    _check_prompt(request)
    _check_sampling(request.sampling)
    _check_capabilities(request, capabilities)


def continues(request: GenerateRequest) -> bool:
    """Whether the last message is the assistant's own, to be written on."""
    messages = request.messages or ()
    return bool(messages) and messages[-1].role == "assistant"


def _check_prompt(request: GenerateRequest) -> None:
    given = [p is not None for p in (request.messages, request.prompt, request.token_ids)]
    if sum(given) != 1:
        raise BadRequest("give exactly one of messages, prompt and token ids", "messages")
    if request.messages is not None and not request.messages:
        raise BadRequest("messages is empty", "messages")
    if request.token_ids is not None and not request.token_ids:
        raise BadRequest("prompt has no tokens", "prompt")


def _check_sampling(sampling: Sampling) -> None:
    # Comparisons are written so that NaN fails them.
    for name, low, high in _RANGES:
        if not low <= getattr(sampling, name) <= high:
            raise BadRequest(f"{name} must be from {low:g} to {high:g}", name)
    if not 0.0 < sampling.top_p <= 1.0:
        raise BadRequest("top_p must be over 0 and at most 1", "top_p")
    if sampling.n < 1:
        raise BadRequest("n must be at least 1", "n")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise BadRequest("max_tokens must be at least 1", "max_tokens")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_LOGPROBS:
        raise BadRequest(f"top_logprobs must be from 0 to {MAX_LOGPROBS}", "top_logprobs")
    if not all(sampling.stop):
        raise BadRequest("a stop string is empty", "stop")


def _check_capabilities(request: GenerateRequest, can: Capabilities) -> None:
    sampling = request.sampling
    needs = (
        (request.prompt is not None, can.text_prompts, "prompt"),
        (request.token_ids is not None, can.token_prompts, "prompt"),
        (continues(request), can.continues, "messages"),
        (bool(request.tools), can.tools, "tools"),
        (sampling.n > 1, can.n, "n"),
        (sampling.seed is not None, can.seed, "seed"),
        (sampling.logprobs is not None, can.logprobs, "logprobs"),
    )
    for asked, able, param in needs:
        if asked and not able:
            raise Unsupported(f"this engine does not support this use of {param}", param)
