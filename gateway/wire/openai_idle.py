"""What OpenAI's chat completions and responses take, for clients that send it always."""

from __future__ import annotations

from typing import Annotated, Literal

from gateway.wire.dialect import Few, Generate, only

#: Pairs of `metadata`, as OpenAI takes them.
MOST_METADATA = 16


class Idle(Generate):
    """Fields without effect here, none of which ever reaches the model."""

    parallel_tool_calls: Annotated[Literal[True] | None, only(True, "must be true")] = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Annotated[dict[str, str], Few(MOST_METADATA)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
