"""The way to Redis: a client with short time-outs, and one place that decides whose Redis it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.embedded_redis import EmbeddedRedis, one_try, published_url
from gateway.errors import DirectoryInUse, RedisUnavailable

log = logging.getLogger("gardefou.redis")

TIMEOUT = 1.0  # seconds to connect, and to get an answer
POOL_TIMEOUT = 5.0  # seconds to wait for a free connection, in a burst
MAX_CONNECTIONS = 50
#: What redis-py says when none of them was free in time: Redis may be well.
BUSY = "No connection available."


@dataclass(frozen=True)
class RedisEndpoint:
    """Where Redis is. `embedded`: ours, if this process runs it; start() brings it back.

    logged: its clients log when it is lost, and when it is back.
    """

    url: str = field(repr=False)  # may hold a password
    embedded: EmbeddedRedis | None = None
    logged: bool = False

    def client(self) -> Redis:
        return connect(self.url, logged=self.logged)


class _LoggedRedis(Redis):
    """Logs once that Redis was lost, and once that it is back.

    All that the server asks goes through here. Redis that never answered is no news: who asks first
    says so.
    """

    _answered = False
    _lost_at: float | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if self._answered and self._lost_at is None and str(error) != BUSY:
                self._lost_at = time.monotonic()
                where = address(self)
                log.error("Redis at %s is lost: %s", where, type(error).__name__)  # noqa: TRY400
            raise
        except redis.RedisError:  # an answer, too
            self._note_answer(began)
            raise
        self._note_answer(began)
        return answer

    def _note_answer(self, began: float) -> None:
        self._answered = True
        # What was asked before the loss may be answered after it, and does not tell.
        if self._lost_at is not None and began >= self._lost_at:
            self._lost_at = None
            log.warning("Redis at %s is back", address(self))


def address(client: Redis) -> str:
    """Host and port, or the socket, of a client's Redis; never its password."""
    said = client.connection_pool.connection_kwargs
    if "path" in said:
        return str(said["path"])
    host, port = str(said.get("host", "localhost")), said.get("port", 6379)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(url: str, *, timeout: float = TIMEOUT, logged: bool = False) -> Redis:
    """A client over one pool. It connects when first used and reconnects by itself.

    No command is sent twice: after a time-out nobody knows whether the first one took effect.
    logged: log when Redis is lost, and when it is back.
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
    return (_LoggedRedis if logged else Redis).from_pool(pool)


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
        _check(url)
        yield RedisEndpoint(url, logged=serving)
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
            return RedisEndpoint(server.url, server, logged=serving)


def _check(url: str) -> None:
    """Raises RedisUnavailable if its query holds what no connection takes, as `?db=x`."""
    try:
        # Made, and not opened.
        connect(url).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        raise RedisUnavailable(f"--redis: the address's query does not fit: {error}") from error


def _answers(url: str) -> bool:
    try:
        with one_try(url, TIMEOUT) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
