"""The way to Redis: a client with short time-outs, and one place that decides whose Redis it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.embedded_redis import EmbeddedRedis, one_try, published_url
from gateway.errors import DirectoryInUse

TIMEOUT = 1.0  # seconds to connect, and to get an answer
POOL_TIMEOUT = 5.0  # seconds to wait for a free connection, in a burst
MAX_CONNECTIONS = 50


@dataclass(frozen=True)
class RedisEndpoint:
    """Where Redis is. `embedded`: ours, if this process runs it; start() brings it back."""

    url: str = field(repr=False)  # may hold a password
    embedded: EmbeddedRedis | None = None

    def client(self) -> Redis:
        return connect(self.url)


def connect(url: str, *, timeout: float = TIMEOUT) -> Redis:
    """A client over one pool. It connects when first used and reconnects by itself.

    No command is sent twice: after a time-out nobody knows whether the first one took effect.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=POOL_TIMEOUT,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    return Redis.from_pool(pool)


@contextmanager
def open_redis(
    url: str | None, directory: Path, *, serving: bool = False, patience: float = 10.0
) -> Iterator[RedisEndpoint]:
    """The Redis at `url`, or else an embedded one that keeps its data in `directory`.

    serving: this process is to run the embedded one and to let others in; if another such process
    already has the directory, DirectoryInUse says so. Not serving (a command line tool): the
    server's Redis if there is one, else one of our own for the duration of the block. Whoever
    finds the directory held by such a passing one waits up to `patience` seconds.
    Call it from the main thread. Raises RedisUnavailable.
    """
    if url is not None:
        yield RedisEndpoint(url)
        return
    endpoint = _embedded(directory, serving=serving, deadline=time.monotonic() + patience)
    try:
        yield endpoint
    finally:
        if endpoint.embedded is not None:
            endpoint.embedded.stop()


def _embedded(directory: Path, *, serving: bool, deadline: float) -> RedisEndpoint:
    while True:
        server = EmbeddedRedis(directory, publish=serving)
        try:
            server.start()
        except DirectoryInUse:
            shared = published_url(directory)
            if shared is not None and _answers(shared):
                if serving:
                    raise DirectoryInUse(
                        f"another server keeps its Redis in {directory}: "
                        "choose another data directory, or share one Redis by its address"
                    ) from None
                return RedisEndpoint(shared)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return RedisEndpoint(server.url, server)


def _answers(url: str) -> bool:
    try:
        with one_try(url, TIMEOUT) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
