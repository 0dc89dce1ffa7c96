from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from gateway.embedded_redis import EmbeddedRedis, redis_servers
from gateway.redis_connection import connect


@pytest.fixture(scope="session", params=list(redis_servers()), ids=lambda path: path.parent.name)
def redis_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """A Redis of this test process alone: every redis-server that there is, the wheel's 6.2 too."""
    with EmbeddedRedis(binary=request.param) as server:
        yield server


@pytest.fixture
async def redis(redis_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    # Patient: a busy machine is not a Redis that is away.
    async with connect(redis_server.url, timeout=20) as client:
        await client.flushall()
        yield client
