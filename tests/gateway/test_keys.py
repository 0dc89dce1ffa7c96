from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis.asyncio import Redis

from gateway.cli.keys import keys as keys_command
from gateway.embedded_redis import EmbeddedRedis
from gateway.errors import BadKeyRecord, InvalidKeyName, RedisUnavailable, UnknownKey
from gateway.keys import SECRET, KeyStore, _id_of, _new_secret
from gateway.limits.types import Limits
from gateway.redis_connection import connect


@pytest.fixture
def store(redis: Redis) -> KeyStore:
    return KeyStore(redis)


async def test_a_key_lives_and_ends(store: KeyStore) -> None:
    assert await store.empty()
    limits = Limits(requests_per_minute=60, blocks_per_hour=3)
    app, secret = await store.add("my-app", policy="strict", limits=limits)
    operator, _ = await store.add("ops", role="operator")
    assert not await store.empty()
    assert (app.name, app.role, app.policy, app.limits) == ("my-app", "app", "strict", limits)
    assert (operator.role, operator.policy, operator.limits) == ("operator", None, Limits())
    assert await store.list() == [app, operator]
    assert await store.lookup(secret) == app

    assert await store.revoke("my-app") == app.id
    with pytest.raises(UnknownKey):
        await store.lookup(secret)
    with pytest.raises(UnknownKey):
        await store.revoke("my-app")
    again, _ = await store.add("my-app")
    assert again.id != app.id
    assert await store.revoke(again.id) == again.id
    assert await store.list() == [operator]


async def test_the_secret_is_nowhere_in_redis(store: KeyStore, redis: Redis) -> None:
    record, secret = await store.add("app")
    stored = str([await redis.hgetall(str(name)) for name in await redis.keys()])
    assert record.id in stored
    assert secret[11:] not in stored
    assert secret[11:51] not in stored
    assert "secret" not in type(record).model_fields
    assert "digest" not in type(record).model_fields
    with pytest.raises(ValidationError, match="frozen"):
        record.role = "operator"


async def test_only_the_very_secret_opens(store: KeyStore) -> None:
    _, secret = await store.add("app")
    _, other = await store.add("other")
    sealed = _new_secret(secret[3:11])  # a right checksum and a right id, another secret
    for wrong in (
        sealed,
        _new_secret("aaaaaaaa"),
        "",
        "gf_",
        secret[:-1],
        secret + "\n",
        f" {secret}",
    ):
        with pytest.raises(UnknownKey):
            await store.lookup(wrong)
    assert (await store.lookup(other)).name == "other"


@given(place=st.integers(0, 58), letter=st.characters())
def test_one_wrong_letter_is_told_without_asking(place: int, letter: str) -> None:
    secret = _new_secret("abcdefgh")
    assert _id_of(secret) == "abcdefgh"
    wrong = secret[:place] + letter + secret[place + 1 :]
    assert wrong == secret or _id_of(wrong) is None


def test_secrets_are_long_random_and_findable() -> None:
    made = {_new_secret("abcdefgh") for _ in range(200)}
    assert len(made) == 200
    for secret in made:
        assert SECRET.fullmatch(secret)
        assert re.fullmatch(r"gf_[a-z2-7]{48}[0-9a-f]{8}", secret)  # 40 of them x 5 bits = 200


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "-a", ".a", "a\n", "é", "a/b", "a" * 65, "a{b}", "<b>"]
)
async def test_bad_names(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidKeyName, match="1 to 64 letters"):
        await store.add(name)
    assert await store.empty()


async def test_a_name_is_given_once_however_many_ask(store: KeyStore) -> None:
    results = await asyncio.gather(
        *(store.add(name) for name in ["one", "two"] * 5), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, InvalidKeyName)]
    assert len(refused) == 8
    assert "already" in str(refused[0])
    assert sorted(record.name for record in await store.list()) == ["one", "two"]


async def test_a_record_that_cannot_be_read_is_no_key(store: KeyStore, redis: Redis) -> None:
    record, secret = await store.add("app")
    raw = json.loads(str(await redis.hget("gardefou:keys", record.id)))
    raw["limits"]["requests_per_second"] = 1  # of a newer version: dropped, it would be no limit
    for broken in (json.dumps(raw), "", "{}", "\x00"):
        await redis.hset("gardefou:keys", record.id, broken)
        with pytest.raises(BadKeyRecord):
            await store.lookup(secret)
        with pytest.raises(BadKeyRecord, match=record.id):
            await store.list()
    await store.revoke(record.id)
    assert await store.list() == []


async def test_without_redis() -> None:
    async with connect("redis://127.0.0.1:1/0") as nowhere:
        store = KeyStore(nowhere)
        with pytest.raises(RedisUnavailable, match=r"^Redis at 127\.0\.0\.1:1: "):
            await store.lookup(_new_secret("abcdefgh"))
        with pytest.raises(RedisUnavailable):
            await store.add("app")
        with pytest.raises(UnknownKey):  # told by its form
            await store.lookup("sk-something")


@dataclass(frozen=True)
class Settings:
    data: Path
    redis: str | None = None


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(keys_command, arguments, obj=settings)


def test_the_command_line(tmp_path: Path) -> None:
    """Each command starts a Redis of its own on the folder, and finds what the last one left."""
    settings = Settings(tmp_path / "data")
    assert run(settings, "list").stderr == "No keys.\n"
    added = run(settings, "add", "my-app", "--role", "editor", "--rpm", "50", "--policy", "strict")
    assert added.exit_code == 0
    secret = added.stdout.strip()
    assert SECRET.fullmatch(secret)
    listed = run(settings, "list").stdout
    for part in ("my-app", "editor", "strict", '{"requests_per_minute": 50}'):
        assert part in listed
    assert secret not in listed
    twice = run(settings, "add", "my-app")
    assert (twice.exit_code, twice.stderr) == (1, "Error: there is a key named 'my-app' already\n")
    assert json.loads(run(settings, "list", "--json").stdout)["name"] == "my-app"
    assert run(settings, "revoke", "my-app").exit_code == 0
    assert run(settings, "revoke", "my-app").exit_code == 1
    assert run(settings, "list").stderr == "No keys.\n"


def test_the_command_line_reaches_a_running_server(tmp_path: Path) -> None:
    """Of this process, so that it holds the lock; another process's is in test_embedded_redis."""

    async def lookup(url: str, secret: str) -> str:
        async with connect(url) as client:
            return (await KeyStore(client).lookup(secret)).name

    with EmbeddedRedis(tmp_path, publish=True) as server:
        secret = run(Settings(tmp_path), "add", "app").stdout.strip()
        assert asyncio.run(lookup(server.url, secret)) == "app"
        other = Settings(tmp_path / "unused", redis=server.url)
        assert "app" in run(other, "list").stdout
        assert not (tmp_path / "unused").exists()
    down = run(Settings(tmp_path, redis="redis://127.0.0.1:1/0"), "list")
    assert (down.exit_code, down.stderr) == (1, "Error: Redis at 127.0.0.1:1: ConnectionError\n")


def test_where_redis_is_may_be_said_behind_the_command(tmp_path: Path) -> None:
    def listed(*arguments: str, **environment: str) -> str:
        return CliRunner().invoke(keys_command, arguments, env=environment).output

    first, second = "redis://127.0.0.1:1/0", "redis://127.0.0.1:2/0"
    assert "127.0.0.1:1:" in listed("--redis", first, "list")
    assert "127.0.0.1:1:" in listed("list", "--redis", first)
    assert "127.0.0.1:2:" in listed("--redis", first, "list", "--redis", second)
    assert "127.0.0.1:1:" in listed("--redis", first, "list", GARDEFOU_REDIS=second)
    assert "127.0.0.1:2:" in listed("list", GARDEFOU_REDIS=second)
    assert listed("list", GARDEFOU_REDIS="x").startswith("gardefou: GARDEFOU_REDIS: an address")
    (tmp_path / "own.toml").write_text(f'redis = "{second}"\n')
    assert "127.0.0.1:2:" in listed("list", "--config", str(tmp_path / "own.toml"))
    assert "127.0.0.1:1:" in listed("list", "--redis", f"{first}?protocol=3")
    assert "does not fit" in listed("list", "--redis", f"{first}?colour=red")


def test_a_policy_that_nobody_knows_is_warned_of(tmp_path: Path) -> None:
    """And the key is made: the server's settings may be others."""
    (tmp_path / "shop.yaml").write_text("mode: monitor\npolicy: 'shop'\n")
    (tmp_path / "own.toml").write_text(f'policy = ["{tmp_path}/shop.yaml", "{tmp_path}/none.yaml"]')
    config = ("--config", str(tmp_path / "own.toml"), "--data", str(tmp_path / "data"))

    def warned(name: str, policy: str, **environment: str) -> bool:
        said = ("add", name, "--policy", policy, *config)
        added = CliRunner().invoke(keys_command, said, env=environment)
        assert added.exit_code == 0
        assert SECRET.fullmatch(added.stdout.strip())
        return f"is {policy!r}; unless" in added.stderr

    assert not warned("a", "strict")
    assert not warned("b", "shop")
    assert warned("c", "nosuch")
    assert warned("d", "shop", GARDEFOU_POLICY="default patterns")
