"""A request as `/chat/completions` takes it."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from model_runner.checks import continues
from model_runner.types import GenerateRequest, Message, Sampling, Tool

Dialect: TypeAlias = Literal["openai", "vllm"]
Body: TypeAlias = dict[str, object]

_SENT: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "n",
)
GREEDY: Final = 1e-5  # what vLLM samples greedily below
MESSAGE_TOKENS = 8  # for the control tokens around a message, in the templates we know


def payload(
    request: GenerateRequest,
    model: str,
    *,
    dialect: Dialect = "openai",
    salt_key: bytes = b"",
    ids: bool = False,
) -> Body:
    """The JSON body. A sampling option is sent only where it differs from OpenAI's default.

    dialect: `vllm` continues a last assistant message.
    salt_key: with one, `cache_salt` tells the engine to share its prefix cache within a tenant.
    ids: have the engine tell the tokens that it reads and writes.
    """
    body: Body = {
        "model": model,
        "messages": [_message(m) for m in request.messages or ()],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= _sampling(request.sampling)
    if request.tools:
        body["tools"] = [_tool(t) for t in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = request.tool_choice
    if dialect == "vllm" and request.sampling.n > 1 and request.sampling.temperature < GREEDY:
        # It refuses several greedy choices; the likeliest token alone is the same.
        del body["temperature"]
        body["top_k"] = 1
    if dialect == "vllm" and continues(request):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if salt_key:
        body["cache_salt"] = salt(salt_key, request.tenant)
    if ids:
        # Log probabilities too: they alone tell which token wrote which part of the text.
        body |= {"return_token_ids": True, "logprobs": True}
    return body


def salt(key: bytes, tenant: str) -> str:
    """What keeps a tenant's prefixes apart in the engine's cache; empty without a key."""
    return hmac.digest(key, tenant.encode(), hashlib.sha256).hex() if key else ""


def count(request: GenerateRequest, bytes_per_token: float) -> int:
    """Prompt tokens, from above as a rule: UTF-8 bytes ÷ `bytes_per_token`, and 8 per message.

    English and French come to four or five bytes a token. Text of digits, symbols or rare scripts
    can come to one; with `bytes_per_token=1` nothing exceeds the count.
    """
    messages = request.messages or ()
    size = _size(request.prompt or "")
    for message in messages:
        size += _size(json.dumps(_message(message), ensure_ascii=False))
    for tool in request.tools:
        size += _size(json.dumps(_tool(tool), ensure_ascii=False))
    tokens = math.ceil(size / bytes_per_token) + len(request.token_ids or ())
    return tokens + MESSAGE_TOKENS * (len(messages) + len(request.tools))


def _size(text: str) -> int:
    """Bytes of UTF-8; half a character counts too."""
    return len(text.encode("utf-8", "surrogatepass"))


def _sampling(sampling: Sampling) -> Body:
    default = Sampling()
    body: Body = {
        name: getattr(sampling, name)
        for name in _SENT
        if getattr(sampling, name) != getattr(default, name)
    }
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body["logprobs"] = True
        if sampling.logprobs:
            body["top_logprobs"] = sampling.logprobs
    return body


def _message(message: Message) -> Body:
    # `developer` is `system` by another name, and most chat templates know only the latter.
    role = "system" if message.role == "developer" else message.role
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in message.tool_calls
    ]
    optional: Mapping[str, object] = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
    }
    content = None if calls and not message.content else message.content
    return {"role": role, "content": content, **_given(optional)}


def _tool(tool: Tool) -> Body:
    optional: Mapping[str, object] = {
        "description": tool.description,
        "parameters": None if tool.parameters is None else dict(tool.parameters),
        "strict": tool.strict,
    }
    return {"type": "function", "function": {"name": tool.name, **_given(optional)}}


def _given(fields: Mapping[str, object]) -> Body:
    return {name: value for name, value in fields.items() if value is not None}
