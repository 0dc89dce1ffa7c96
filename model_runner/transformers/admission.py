"""What is refused before it waits: requests that this model cannot serve as they are."""

from __future__ import annotations

from model_runner.checks import check
from model_runner.errors import BadRequest, Unavailable
from model_runner.transformers.model import Model
from model_runner.types import Capabilities, GenerateRequest

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MIN_POSITIONS = 64  # that a reserve must leave: with fewer, hardly a prompt could be served


def check_request(request: GenerateRequest, capabilities: Capabilities, vocabulary: int) -> None:
    """Raises BadRequest and Unsupported, naming the parameter."""
    check(request, capabilities)
    asked = request.sampling
    rules = (
        ("n", asked.n <= MAX_CHOICES, f"must be at most {MAX_CHOICES}"),
        ("stop", len(asked.stop) <= MAX_STOPS, f"takes at most {MAX_STOPS} strings"),
        (
            "stop",
            all(len(stop) <= MAX_STOP_LENGTH for stop in asked.stop),
            f"strings must have at most {MAX_STOP_LENGTH} characters",
        ),
        (
            "logit_bias",
            all(token < vocabulary for token in asked.logit_bias),
            "names an id that is no token",
        ),
    )
    for param, holds, rule in rules:
        if not holds:
            raise BadRequest(f"{param} {rule}", param)


def check_room(model: Model, reserve: int, least: int) -> None:
    """Raises Unavailable for an engine that would refuse whatever it is asked."""
    positions, store = model.positions, model.store
    if reserve and positions - reserve < MIN_POSITIONS:
        raise Unavailable(
            f"judge-reserve: {reserve} of the {positions} tokens that the model reads leave fewer "
            f"than {MIN_POSITIONS} for a prompt and its answer"
        )
    least = min(least, positions)
    if store.size(least) > store.limit:
        raise Unavailable(
            f"kv-gib: keys and values of {least} tokens take {store.size(least) / 2**30:.3g} GiB, "
            "and there must be memory for as many"
        )


def check_size(request: GenerateRequest, positions: int, longest: int) -> None:
    """Raises BadRequest for a prompt that is too long however it is encoded, before it is.

    positions: as of `room`. longest: bytes of the longest token.
    """
    messages = request.messages or ()
    size = len((request.prompt or "").encode("utf-8", "surrogatepass"))
    size += sum(len(m.content.encode("utf-8", "surrogatepass")) for m in messages)
    if size > positions * longest or len(messages) > positions:
        raise BadRequest(
            f"the prompt has {len(messages) or 1} texts of {size} bytes in all, "
            f"the model reads {positions} tokens",
            _prompt_field(request),
        )


def check_length(request: GenerateRequest, length: int, positions: int) -> None:
    """Raises BadRequest for a prompt that leaves no room for an answer."""
    if length >= positions:
        raise BadRequest(
            f"the prompt has {length} tokens, the model reads {positions}", _prompt_field(request)
        )


def _prompt_field(request: GenerateRequest) -> str:
    return "messages" if request.messages is not None else "prompt"


def room(request: GenerateRequest, length: int, positions: int) -> int:
    """New tokens at most, of a prompt of `length`. Raises BadRequest if they do not fit.

    positions: those of the model that prompt and answer may take.
    """
    check_length(request, length, positions)
    left = positions - length
    wanted = request.sampling.max_tokens
    if wanted is None:
        return left
    if wanted > left:
        raise BadRequest(
            f"{length} prompt tokens and max_tokens {wanted} are more than the "
            f"{positions} that the model reads",
            "max_tokens",
        )
    return wanted
