"""What an engine streams, as far as we read it. Unknown fields are left aside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model_runner.errors import EngineFailed
from model_runner.types import FinishReason

DONE: Final = "[DONE]"
MAX_TOOL_CALLS: Final = 256

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
}
#: What OpenAI tells of a token that is hardly possible.
UNLIKELY: Final = -9999.0
FAILURES: Final = frozenset({"abort", "cancelled", "error"})


def finish_reason(said: str) -> FinishReason:
    """Our word for the engine's; one that nobody knows (`eos`, `end_turn`, ...) is a `stop`.

    Raises: EngineFailed for those that mean that the answer is no answer.
    """
    said = said.lower()
    if said in FAILURES:
        raise EngineFailed("the upstream engine gave up on the answer")
    return FINISH_REASONS.get(said, "stop")


class _Frame(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


def _finite(said: object) -> object:
    none = said is None or (isinstance(said, float) and not math.isfinite(said))
    return UNLIKELY if none else said


class TopLogprob(_Frame):
    token: str
    # Engines tell a probability of nothing as -Infinity, which is no JSON, or as null.
    logprob: Annotated[float, BeforeValidator(_finite)]
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(_Frame):
    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Function(_Frame):
    name: str | None = None
    arguments: str | None = None


class ToolCall(_Frame):
    index: int | None = Field(None, ge=0, lt=MAX_TOOL_CALLS)
    id: str | None = None
    function: Function | None = None


class ChunkDelta(_Frame):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class ChunkChoice(_Frame):
    index: int = Field(ge=0)
    delta: ChunkDelta | None = None  # Azure ends with null
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None  # vLLM, where asked for


class ChunkUsage(_Frame):
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)


class Chunk(_Frame):
    """One event. It is a chunk of choices, or the usage, or an error."""

    choices: list[ChunkChoice] | None = None
    usage: ChunkUsage | None = None
    prompt_token_ids: list[int] | None = None  # vLLM, in the first chunk
    error: object = None


def read_chunk(data: str) -> Chunk:
    """Raises: EngineFailed for what is no chunk, and for an error that the engine sends."""
    try:
        chunk = Chunk.model_validate_json(data)
    except ValidationError:  # its message quotes the frame
        raise EngineFailed("the upstream sent a malformed frame") from None
    if chunk.error is not None:
        raise EngineFailed("the upstream reported an error")
    if chunk.choices is None and chunk.usage is None:
        raise EngineFailed("the upstream sent a malformed frame")
    return chunk
