from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from gateway.embedded_redis import EmbeddedRedis
from gateway.errors import LimitExceeded, LimitsUnavailable, RedisUnavailable
from gateway.limits.limiter import Lease, Limiter
from gateway.limits.types import Limits, format_duration, rate_limit_headers, retry_headers
from gateway.redis_connection import connect

START = 1_800_000_000_000  # ms; any


class Clock:
    def __init__(self) -> None:
        self.now = START + 123

    def __call__(self) -> int:
        return self.now


def wait_until_dead(server: EmbeddedRedis) -> None:
    while server.alive:
        time.sleep(0.01)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(redis: Redis, clock: Clock) -> Limiter:
    return Limiter(redis, clock=clock)


def count(results: list[Lease | BaseException]) -> int:
    for result in results:
        if not isinstance(result, Lease | LimitExceeded):
            raise result
    return sum(isinstance(result, Lease) for result in results)


async def test_200_at_once_pass_a_limit_of_50_exactly_50_times(redis: Redis) -> None:
    """By Redis's own clock, from two gateways' worth of clients."""
    limiter = Limiter(redis)
    for kind in ("requests_per_minute", "concurrent_streams", "tokens_per_minute"):
        limits = Limits(**{kind: 50})
        results = await asyncio.gather(
            *(limiter.admit(f"key-{kind}", limits, tokens=1) for _ in range(200)),
            return_exceptions=True,
        )
        assert count(results) == 50, kind


async def test_a_burst_that_takes_longer_than_a_bucket(redis: Redis) -> None:
    """No refill while it lasts: within one window of 12 s (buckets of 200 ms), still exactly 50."""
    limiter = Limiter(redis, minute=12.0)
    limits = Limits(requests_per_minute=50)
    admitted, begin = 0, time.monotonic()
    for _ in range(10):
        admitted += count(
            await asyncio.gather(
                *(limiter.admit("key", limits, tokens=1) for _ in range(20)),
                return_exceptions=True,
            )
        )
        await asyncio.sleep(0.1)
    assert time.monotonic() - begin < 12.0, "the machine is too slow for this test"
    assert admitted == 50


async def test_a_refusal_takes_nothing(redis: Redis, limiter: Limiter) -> None:
    limits = Limits(
        requests_per_minute=10, tokens_per_minute=100, concurrent_streams=1, blocks_per_hour=5
    )
    await limiter.admit("key", limits, tokens=10)
    before = {name: await redis.dump(name) for name in await redis.keys()}
    for tokens in (10, 95):  # the stream is refused, then tokens too
        with pytest.raises(LimitExceeded):
            await limiter.admit("key", limits, tokens=tokens)
    assert {name: await redis.dump(name) for name in await redis.keys()} == before


async def test_keys_do_not_share_limits_and_all_data_expires(
    redis: Redis, limiter: Limiter
) -> None:
    limits = Limits(
        requests_per_minute=1, tokens_per_minute=9, concurrent_streams=1, blocks_per_hour=1
    )
    for key in ("a", "b"):
        lease = await limiter.admit(key, limits, tokens=9)
        await lease.settle(tokens_used=3, blocked=True)
    names = [str(name) for name in await redis.keys()]
    assert {name.partition("}")[0] for name in names} == {"gardefou:{a", "gardefou:{b"}
    for name in names:
        assert 0 < await redis.pttl(name) <= 2 * 3600 * 1000, name


async def test_the_error_says_which_limit_and_how_long(limiter: Limiter, clock: Clock) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=100)
    first = await limiter.admit("key", limits, tokens=30)
    assert first.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m0.877s",  # the rest of its bucket, and a minute
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "70",
        "x-ratelimit-reset-tokens": "1m0.877s",
    }
    clock.now += 5_000
    with pytest.raises(LimitExceeded) as tokens:
        await limiter.admit("key", limits, tokens=80)
    assert (tokens.value.kind, tokens.value.limit, tokens.value.remaining) == ("tokens", 100, 70)
    assert tokens.value.retry_after == tokens.value.reset_seconds == 55.877
    assert tokens.value.headers["retry-after"] == "56"
    assert tokens.value.headers["retry-after-ms"] == "55877"

    await limiter.admit("key", limits, tokens=1)
    with pytest.raises(LimitExceeded) as requests:
        await limiter.admit("key", limits, tokens=1)
    assert requests.value.kind == "requests"
    assert requests.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert requests.value.retry_after == 55.877  # the first one's place
    assert requests.value.reset_seconds == 60.877  # both places

    with pytest.raises(LimitExceeded, match="never") as never:
        await limiter.admit("key", limits, tokens=101)
    assert (never.value.kind, never.value.retry_after) == ("tokens", None)
    assert "retry-after" not in never.value.headers


async def test_settling_gives_back_charges_and_happens_once(redis: Redis, limiter: Limiter) -> None:
    limits = Limits(tokens_per_minute=100, concurrent_streams=1, blocks_per_hour=2)

    async def remaining() -> dict[str, int]:
        probe = Limits(tokens_per_minute=1000, blocks_per_hour=1000)
        lease = await limiter.admit("key", probe, tokens=0)
        return {kind: 1000 - usage.remaining for kind, usage in lease.usage.items()}

    lease = await limiter.admit("key", limits, tokens=100)
    await lease.settle(tokens_used=40, blocked=True)
    assert await remaining() == {"tokens": 40, "blocks": 1}
    await lease.settle(tokens_used=40, blocked=True)
    lease.settled = False  # a second try, after an answer that was lost on the way
    await lease.settle(tokens_used=40, blocked=True)
    assert await remaining() == {"tokens": 40, "blocks": 1}

    over = await limiter.admit("key", limits, tokens=10)
    await over.settle(tokens_used=75, blocked=True)
    assert await remaining() == {"tokens": 115, "blocks": 2}
    with pytest.raises(LimitExceeded) as error:
        await limiter.admit("key", limits, tokens=0)
    assert error.value.kind == "blocks"
    assert error.value.remaining == 0

    await redis.flushall()  # Redis has lost its data: nothing is given back below nothing
    lost = await limiter.admit("key", limits, tokens=100)
    await redis.flushall()
    await lost.settle(tokens_used=0)
    assert await remaining() == {"tokens": 0, "blocks": 0}


async def test_a_stream_nobody_renews_is_freed(limiter: Limiter, clock: Clock) -> None:
    limits = Limits(concurrent_streams=1)
    lost = await limiter.admit("key", limits, tokens=0)
    for _ in range(5):
        clock.now += 20_000
        assert await lost.renew()
        with pytest.raises(LimitExceeded) as error:
            await limiter.admit("key", limits, tokens=0)
        assert (error.value.kind, error.value.retry_after) == ("streams", 1.0)
    clock.now += 30_001
    taken = await limiter.admit("key", limits, tokens=0)
    assert not await lost.renew()
    await lost.settle(tokens_used=0)  # frees its own place only, which it has no more
    with pytest.raises(LimitExceeded):
        await limiter.admit("key", limits, tokens=0)
    await taken.settle(tokens_used=0)
    await limiter.admit("key", limits, tokens=0)


async def test_a_renewal_that_comes_after_the_settling_brings_nothing_back(
    limiter: Limiter,
) -> None:
    limits = Limits(concurrent_streams=1)
    lease = await limiter.admit("key", limits, tokens=0)
    await lease.settle(tokens_used=0)
    lease.settled = False  # it was sent before
    assert not await lease.renew()
    await limiter.admit("key", limits, tokens=0)


async def test_keep_alive_renews_until_settled(redis: Redis) -> None:
    limiter = Limiter(redis, lease_seconds=0.9)
    limits = Limits(concurrent_streams=1)
    lease = await limiter.admit("key", limits, tokens=0)
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.keep_alive())
        await asyncio.sleep(1.3)
        with pytest.raises(LimitExceeded):
            await limiter.admit("key", limits, tokens=0)
        await lease.settle(tokens_used=0)
    await limiter.admit("key", limits, tokens=0)


async def test_who_leaves_while_asking_holds_nothing() -> None:
    """Redis has been asked and answers late: it lets in whom nobody waits for any more."""
    limits = Limits(concurrent_streams=3, tokens_per_minute=100, requests_per_minute=10)
    with EmbeddedRedis() as server:
        async with connect(server.url, timeout=20) as client:
            limiter = Limiter(client)
            held = await limiter.admit("key", limits, tokens=10)
            pid = (await client.info("server"))["process_id"]

            os.kill(pid, signal.SIGSTOP)
            asked = [asyncio.create_task(limiter.admit("key", limits, tokens=9)) for _ in "ab"]
            await asyncio.sleep(0.1)  # all are sent
            for task in asked:
                task.cancel()
            await asyncio.sleep(0.1)
            os.kill(pid, signal.SIGCONT)
            ended = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(end) for end in ended} == {asyncio.CancelledError}

            lease = await limiter.admit("key", limits, tokens=0)
            used = {kind: of.limit - of.remaining for kind, of in lease.usage.items()}
            # They came, so they count as requests.
            assert used == {"requests": 4, "tokens": 10, "streams": 2}
            await held.settle(tokens_used=10)


async def test_a_key_without_limits_needs_no_redis() -> None:
    async with connect("redis://127.0.0.1:1/0") as nowhere:
        lease = await Limiter(nowhere).admit("key", Limits(), tokens=10**9)
        assert lease.headers == {}
        assert not await lease.renew()
        await lease.settle(tokens_used=1, blocked=True)


async def test_nonsense_is_refused(limiter: Limiter) -> None:
    with pytest.raises(ValueError, match="negative"):
        await limiter.admit("key", Limits(tokens_per_minute=1), tokens=-1)
    with pytest.raises(ValueError, match="key's id"):
        await limiter.admit("a}{b", Limits(tokens_per_minute=1), tokens=1)
    for wrong in ({"requests_per_minute": 0}, {"requests_per_second": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits.model_validate(wrong)


async def test_redis_down_stuck_and_back() -> None:
    """With one client all along: it reports within its time-out, and finds Redis back itself."""
    limits = Limits(requests_per_minute=10, concurrent_streams=5)
    with EmbeddedRedis() as server:
        async with connect(server.url, timeout=0.5) as client:
            limiter = Limiter(client)
            lease = await limiter.admit("key", limits, tokens=1)

            pid = (await client.info("server"))["process_id"]
            os.kill(pid, signal.SIGSTOP)
            begin = time.monotonic()
            with pytest.raises(LimitsUnavailable, match=r"^Redis at \S+redis\.sock: "):
                await limiter.admit("key", limits, tokens=1)
            assert time.monotonic() - begin < 3.0
            os.kill(pid, signal.SIGCONT)
            await limiter.admit("key", limits, tokens=1)

            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(wait_until_dead, server)
            with pytest.raises(RedisUnavailable):
                await limiter.admit("key", limits, tokens=1)
            with pytest.raises(LimitsUnavailable):
                await lease.settle(tokens_used=1)

            server.start()
            fresh = await limiter.admit("key", limits, tokens=1)
            assert fresh.usage["requests"].remaining == 9
            await lease.settle(tokens_used=1)
            assert lease.settled


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.012, "12ms"),
        (0.0001, "1ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (60.3, "1m0.3s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3725.25, "1h2m5.25s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_headers_say_what_there_is() -> None:
    assert rate_limit_headers({}) == {}
    assert retry_headers(0.0001) == {"retry-after": "1", "retry-after-ms": "1"}
    assert retry_headers(2.0) == {"retry-after": "2", "retry-after-ms": "2000"}


class LimiterModel(RuleBasedStateMachine):
    """The limiter against a list of what was taken and when.

    Exactly: a request is let in when, and only when, all limits have room for it, where what was
    taken counts for the window's length and the rest of its bucket. And never does any window hold
    more tokens, admitted and not given back, or more requests, than the limit.
    """

    url: str  # set below: Hypothesis makes the machines
    limits = Limits(
        requests_per_minute=8, tokens_per_minute=100, concurrent_streams=4, blocks_per_hour=3
    )
    leases: Bundle[Any] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.lease: Lease | None = None  # the last admitted
        self.redis = connect(self.url, timeout=5.0)
        self.run(self.redis.flushall())
        self.limiter = Limiter(self.redis, clock=self.clock)
        self.requests: list[int] = []  # times
        self.tokens: list[list[int]] = []  # [time, count]
        self.overdrawn: list[list[int]] = []  # the same, beyond what was reserved
        self.blocks: list[int] = []
        self.streams: dict[str, int] = {}  # lease: expiry

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.loop.close()

    def counts(self, then: int, length: int) -> bool:
        width = length // 60
        return then // width >= self.clock.now // width - 60

    def refusal(self, limits: Limits, tokens: int) -> LimitExceeded | None:
        """Why it was refused, if it was; what it took is recorded by the caller."""
        try:
            self.lease = self.run(self.limiter.admit("key", limits, tokens=tokens))
        except LimitExceeded as error:
            return error
        return None

    def wanting(self, tokens: int) -> set[str]:
        now, minute, hour = self.clock.now, 60_000, 3_600_000
        self.streams = {lease: end for lease, end in self.streams.items() if end > now}
        held = sum(n for then, n in self.tokens + self.overdrawn if self.counts(then, minute))
        full = {
            "requests": sum(self.counts(then, minute) for then in self.requests) + 1 > 8,
            "tokens": held + tokens > 100,
            "streams": len(self.streams) + 1 > 4,
            "blocks": sum(self.counts(then, hour) for then in self.blocks) + 1 > 3,
        }
        return {kind for kind, is_full in full.items() if is_full}

    @rule(target=leases, tokens=st.integers(0, 60))
    def admit(self, tokens: int) -> Any:
        wanting = self.wanting(tokens)
        error = self.refusal(self.limits, tokens)
        if error is not None:
            assert error.kind in wanting
            return None
        assert not wanting
        lease = self.lease
        assert lease is not None
        now = self.clock.now
        entry = [now, tokens]
        self.requests.append(now)
        self.tokens.append(entry)
        self.streams[lease.id] = now + 30_000
        return lease, entry

    @rule(tokens=st.integers(0, 100))
    def retry_after_is_exact(self, tokens: int) -> None:
        """One limit alone, so that the wait is its own; then no waiting is lost or too short."""
        only = Limits(tokens_per_minute=100)
        error = self.refusal(only, tokens)
        if error is not None:
            assert error.retry_after is not None
            self.clock.now += round(error.retry_after * 1000) - 1
            assert self.refusal(only, tokens)
            self.clock.now += 1
            assert self.refusal(only, tokens) is None
        self.tokens.append([self.clock.now, tokens])

    @rule(
        lease=consumes(leases), used=st.integers(0, 90), blocked=st.booleans(), twice=st.booleans()
    )
    def settle(self, lease: Any, used: int, blocked: bool, twice: bool) -> None:
        if lease is None:
            return
        held, entry = lease
        self.run(held.settle(tokens_used=used, blocked=blocked))
        if twice:
            held.settled = False
            self.run(held.settle(tokens_used=used, blocked=blocked))
        self.streams.pop(held.id, None)
        if used > entry[1]:
            self.overdrawn.append([self.clock.now, used - entry[1]])
        entry[1] = min(used, entry[1])
        if blocked:
            self.blocks.append(self.clock.now)

    @rule(lease=leases)
    def renew(self, lease: Any) -> None:
        if lease is not None:
            # What has run out but was not cleared away can still be renewed: nobody has its place.
            if self.run(lease[0].renew()):
                self.streams[lease[0].id] = self.clock.now + 30_000
            else:
                assert self.streams.get(lease[0].id, 0) <= self.clock.now

    @rule(milliseconds=st.one_of(st.integers(1, 2_000), st.integers(1, 70_000)))
    def wait(self, milliseconds: int) -> None:
        self.clock.now += milliseconds

    @precondition(lambda self: self.blocks)
    @rule()
    def wait_an_hour(self) -> None:
        self.clock.now += 3_600_000

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        for begin, _ in self.tokens:
            inside = [n for then, n in self.tokens if begin <= then < begin + 60_000]
            assert sum(inside) <= 100
        for begin in self.requests:
            assert sum(begin <= then < begin + 60_000 for then in self.requests) <= 8


def test_the_limiter_is_its_model(redis_server: EmbeddedRedis) -> None:
    class Machine(LimiterModel):
        url = redis_server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
