"""The limiter: leases, taken and settled by atomic scripts in Redis (see the .lua files)."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from gateway.errors import LimitExceeded, LimitsUnavailable
from gateway.limits.types import KINDS, Kind, Limits, Usage, rate_limit_headers, retry_headers
from gateway.redis_connection import address


class Limiter:
    """Admits requests of keys within their limits. Share one per process.

    redis: a client that waits shortly and never sends a command twice (redis_connection.connect).
    lease_seconds: a stream whose lease is not renewed for so long counts no more.
    minute, hour: window lengths in seconds. clock: ms since the epoch; None: Redis's own, so that
    all gateways agree. Tests set these three.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str = "gardefou",
        lease_seconds: float = 30.0,
        minute: float = 60.0,
        hour: float = 3600.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._prefix = prefix
        self._lease_ms = round(lease_seconds * 1000)
        self._windows = (round(minute * 1000), round(hour * 1000))
        self._clock = clock
        self._redis = redis
        self._admit = _script(redis, "admit.lua")
        self._settle = _script(redis, "settle.lua")
        self._renew = _script(redis, "renew.lua")

    async def admit(self, key_id: str, limits: Limits, *, tokens: int) -> Lease:
        """Takes one request, `tokens` (prompt and largest answer) and one stream, or nothing.

        Blocks have no reservation: requests that run at once can pass blocks_per_hour by as many
        as concurrent_streams allows. A key without limits does not ask Redis.
        Raises LimitExceeded, naming the limit that takes longest to pass; LimitsUnavailable.
        """
        if tokens < 0:
            raise ValueError("tokens cannot be negative")
        lease = Lease(self, key_id, secrets.token_hex(12), limits, tokens)
        if limits.unlimited:
            return lease
        taking = asyncio.create_task(self._take(lease))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Its client has left. What is on its way to Redis may be let in all the same.
            await asyncio.wait({taking})
            if not taking.cancelled() and taking.exception() is None:
                with suppress(LimitsUnavailable):
                    await lease.settle(tokens_used=0)
            raise

    async def _take(self, lease: Lease) -> Lease:
        caps = [lease.limits.of(kind) for kind in KINDS]
        answer = await self._run(
            self._admit,
            [self._key(lease.key_id, kind) for kind in KINDS],
            [self._now(), lease.id, self._lease_ms, lease.tokens, *self._windows]
            + ["" if cap is None else cap for cap in caps],
        )
        admitted, lease.bucket, *rest = cast("list[int]", answer)
        lease.usage = {
            kind: _usage(cap, *rest[3 * place : 3 * place + 3])
            for place, (kind, cap) in enumerate(zip(KINDS, caps, strict=True))
            if cap is not None
        }
        if not admitted:
            raise _exceeded(lease.usage, lease.tokens)
        return lease

    async def settle(self, lease: Lease, tokens_used: int, *, blocked: bool) -> None:
        limits = lease.limits
        tokens = limits.tokens_per_minute is not None
        keys = [self._key(lease.key_id, kind) for kind in ("tokens", "streams", "blocks")]
        await self._run(
            self._settle,
            [*keys, self._key(lease.key_id, f"settled:{lease.id}")],
            [
                self._now(),
                lease.id,
                lease.bucket,
                lease.tokens if tokens else "",
                tokens_used if tokens else "",
                int(blocked and limits.blocks_per_hour is not None),
                *self._windows,
            ],
        )

    async def renew(self, lease: Lease) -> bool:
        streams = self._key(lease.key_id, "streams")
        return bool(
            await self._run(self._renew, [streams], [self._now(), lease.id, self._lease_ms])
        )

    def _key(self, key_id: str, name: str) -> str:
        # The braces put all of a key's data on one node of a cluster, as a script needs it.
        if not re.fullmatch(r"[\w.:-]+", key_id):
            raise ValueError("a key's id has letters, digits, `_`, `.`, `:` and `-` only")
        return f"{self._prefix}:{{{key_id}}}:{name}"

    def _now(self) -> int | str:
        return "" if self._clock is None else self._clock()

    async def _run(
        self, script: AsyncScript, keys: Sequence[str], args: Sequence[int | str]
    ) -> object:
        try:
            return await cast("Awaitable[object]", script(keys=keys, args=args))
        except (RedisError, OSError) as error:
            where = address(self._redis)
            raise LimitsUnavailable(f"Redis at {where}: {type(error).__name__}") from error


@dataclass(eq=False)
class Lease:
    """What one admitted request holds. Never settled, its stream is freed after the lease time and
    its tokens leave the window with time."""

    limiter: Limiter = field(repr=False)
    key_id: str
    id: str
    limits: Limits
    tokens: int  # reserved
    bucket: int = 0  # of the window, that the tokens were taken from
    usage: Mapping[Kind, Usage] = field(default_factory=dict)  # just after admission
    settled: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return rate_limit_headers(self.usage)

    async def settle(self, *, tokens_used: int, blocked: bool = False) -> None:
        """Gives back what was not used, or charges more; frees the stream; counts a block.

        Once only, however often called; after LimitsUnavailable it may be called again.
        """
        if self.settled or self.limits.unlimited:
            return
        await self.limiter.settle(self, tokens_used, blocked=blocked)
        self.settled = True

    async def renew(self) -> bool:
        """Keeps the stream for another lease time. False if it was lost, or is not limited."""
        if self.settled or self.limits.concurrent_streams is None:
            return False
        return await self.limiter.renew(self)

    async def keep_alive(self) -> None:
        """Renews until cancelled or settled: run it as a task beside the stream."""
        while not self.settled:
            await asyncio.sleep(self.limiter.lease_seconds / 3)
            try:
                await self.renew()
            except LimitsUnavailable:
                continue  # Redis may be back at the next beat


def _script(redis: Redis, name: str) -> AsyncScript:
    source = files("gateway.limits").joinpath(name).read_text(encoding="utf-8")
    return redis.register_script(source)


def _usage(limit: int, used: int, reset: int, retry: int) -> Usage:
    # A limit may be lowered below what is used, and more be used than was reserved.
    remaining = max(0, limit - used)
    return Usage(limit, remaining, reset / 1000, None if retry < 0 else retry / 1000)


def _exceeded(usage: Mapping[Kind, Usage], tokens: int) -> LimitExceeded:
    def wait(kind: Kind) -> float:
        retry = usage[kind].retry_after
        return math.inf if retry is None else retry

    kind = max(usage, key=wait)
    at = usage[kind]
    headers = rate_limit_headers(usage) | retry_headers(at.retry_after)
    if at.retry_after is None:
        headers["x-should-retry"] = "false"  # or official clients would, twice
    return LimitExceeded(
        kind,
        at.limit,
        at.remaining,
        at.reset_seconds,
        at.retry_after,
        headers,
        asked=tokens if kind == "tokens" else 1,
    )
