"""What every runner refuses before it admits a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from model_runner.errors import BadRequest, Unsupported
from model_runner.types import Capabilities, GenerateRequest, Sampling

_RANGES: Final = (
    ("temperature", 0.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("min_p", 0.0, 1.0),
    # Engines divide by it: what is nearly zero makes infinities of logits.
    ("repetition_penalty", 0.1, 10.0),
)
MAX_LOGPROBS: Final = 20
MAX_BIAS: Final = 100.0
MAX_BIASES: Final = 1024
MAX_ID: Final = 2**31 - 1

#: What an engine takes, and what to send instead of that which it does not.
_NONE: Final = "none; leave it out"
_NO_TEXTS: Final = "no text to go on with (completions); ask in `messages`, as chat does"
_NO_CONTINUING: Final = (
    "no last message of role `assistant` to go on with; let the last be of another role"
)


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
    if sampling.top_k is not None and not 1 <= sampling.top_k <= MAX_ID:
        raise BadRequest("top_k must be at least 1", "top_k")
    _check_bias(sampling.logit_bias)
    if sampling.n < 1:
        raise BadRequest("n must be at least 1", "n")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise BadRequest("max_tokens must be at least 1", "max_tokens")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_LOGPROBS:
        raise BadRequest(f"top_logprobs must be from 0 to {MAX_LOGPROBS}", "top_logprobs")
    if not all(sampling.stop):
        raise BadRequest("a stop string is empty", "stop")


def _check_bias(bias: Mapping[int, float]) -> None:
    if len(bias) > MAX_BIASES:
        raise BadRequest(f"logit_bias takes at most {MAX_BIASES} tokens", "logit_bias")
    if not all(0 <= token <= MAX_ID for token in bias):
        raise BadRequest("logit_bias names what is no token id", "logit_bias")
    if not all(-MAX_BIAS <= value <= MAX_BIAS for value in bias.values()):
        raise BadRequest(f"logit_bias must be from {-MAX_BIAS:g} to {MAX_BIAS:g}", "logit_bias")


def _check_capabilities(request: GenerateRequest, can: Capabilities) -> None:
    sampling = request.sampling
    needs = (
        (request.prompt is not None, can.text_prompts, "prompt", _NO_TEXTS),
        (request.token_ids is not None, can.token_prompts, "prompt", "no token ids; send text"),
        (continues(request), can.continues, "messages", _NO_CONTINUING),
        (bool(request.tools), can.tools, "tools", "no tools; leave them out"),
        (sampling.n > 1, can.n, "n", "one choice a request; send several requests"),
        (sampling.seed is not None, can.seed, "seed", _NONE),
        (sampling.logprobs is not None, can.logprobs, "logprobs", _NONE),
        (sampling.top_k is not None, can.top_k, "top_k", _NONE),
        (sampling.min_p > 0.0, can.min_p, "min_p", _NONE),
        (sampling.repetition_penalty != 1.0, can.repetition_penalty, "repetition_penalty", _NONE),
        (bool(sampling.logit_bias), can.logit_bias, "logit_bias", _NONE),
    )
    for asked, able, param, instead in needs:
        if asked and not able:
            raise Unsupported(f"{param}: this engine takes {instead}", param)
