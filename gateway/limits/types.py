"""What a key may use, what it has used, and how that is said in headers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["requests", "tokens", "streams", "blocks"]
KINDS: tuple[Kind, ...] = ("requests", "tokens", "streams", "blocks")  # the order of the scripts
MOST_LIMIT = 10**12
Limit = Annotated[int, Field(ge=1, le=MOST_LIMIT)]


class Limits(BaseModel):
    """Limits of one key. None: no such limit.

    requests_per_minute and tokens_per_minute (prompt and answer) slide over the last minute;
    blocks_per_hour counts requests that a policy blocked, over the last hour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_streams: Limit | None = None
    blocks_per_hour: Limit | None = None

    def of(self, kind: Kind) -> int | None:
        by_kind: Mapping[Kind, int | None] = {
            "requests": self.requests_per_minute,
            "tokens": self.tokens_per_minute,
            "streams": self.concurrent_streams,
            "blocks": self.blocks_per_hour,
        }
        return by_kind[kind]

    @property
    def unlimited(self) -> bool:
        return all(self.of(kind) is None for kind in KINDS)


@dataclass(frozen=True)
class Usage:
    """How far one limit is used, just after a request was let in or refused.

    reset_seconds: until all of it is free again. Of streams nobody knows; it is 0.
    retry_after: seconds until this request would pass: 0 if it did, None if it never will.
    """

    limit: int
    remaining: int
    reset_seconds: float
    retry_after: float | None = 0.0


def format_duration(seconds: float) -> str:
    """As in OpenAI's headers and Go's time.Duration: `12ms`, `1.5s`, `6m0s`, `1h0m0s`, `0s`."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    fraction = f".{rest:03}".rstrip("0") if rest else ""
    if hours:
        return f"{hours}h{minute}m{second}{fraction}s"
    return f"{minute}m{second}{fraction}s" if minute else f"{second}{fraction}s"


def rate_limit_headers(usage: Mapping[Kind, Usage]) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, for limits that there are."""
    headers = {}
    for kind in ("requests", "tokens"):
        if (used := usage.get(kind)) is not None:
            headers[f"x-ratelimit-limit-{kind}"] = str(used.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(used.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = format_duration(used.reset_seconds)
    return headers


def retry_headers(retry_after: float | None) -> dict[str, str]:
    """`retry-after` in whole seconds and `retry-after-ms`; none where waiting is of no use."""
    if retry_after is None:
        return {}
    milliseconds = max(1, math.ceil(round(retry_after * 1000, 3)))
    return {
        "retry-after": str(math.ceil(milliseconds / 1000)),
        "retry-after-ms": str(milliseconds),
    }
