"""API keys, in Redis: the secret is shown once and stored as a hash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from gateway.errors import BadKeyRecord, InvalidKeyName, RedisUnavailable, UnknownKey
from gateway.limits.types import Limits
from gateway.redis_connection import address

Role = Literal["app", "editor", "operator"]

# gf_ <id: 8> <random: 40, 200 bits> <CRC-32 of all before: 8 hex digits>. The checksum lets a
# mistyped key be told, and a scanner of secrets be sure, without asking anybody.
SECRET = re.compile(r"(gf_([a-z2-7]{8})[a-z2-7]{40})([0-9a-f]{8})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyRecord(BaseModel):
    """A key without its secret. policy: None for the default one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    role: Role
    policy: str | None = None
    limits: Limits = Field(default_factory=Limits)
    created: datetime


class _StoredKey(KeyRecord):
    digest: str


class KeyStore:
    """All keys are one hash in Redis, id -> JSON, so that a look-up is one HGET.

    redis: a client that decodes answers, as redis_connection.connect makes it.
    Nothing is cached: a revoked key is refused from the next request on.
    All methods raise RedisUnavailable.
    """

    def __init__(self, redis: Redis, *, prefix: str = "gardefou") -> None:
        self._redis = redis
        self._keys = f"{prefix}:keys"

    async def add(
        self,
        name: str,
        *,
        role: Role = "app",
        policy: str | None = None,
        limits: Limits | None = None,
    ) -> tuple[KeyRecord, str]:
        """The new key's record, and its secret, which nobody can ask for again.

        Raises InvalidKeyName, also for a name that is taken.
        """
        _check_name(name)
        record = KeyRecord(
            id=_base32(5),
            name=name,
            role=role,
            policy=policy,
            limits=limits or Limits(),
            created=datetime.now(UTC),
        )
        secret = _new_secret(record.id)
        stored = _StoredKey(**dict(record), digest=_digest(secret))
        with _reported(self._redis):
            await self._store(stored)
        return record, secret

    async def _store(self, stored: _StoredKey) -> None:
        async with self._redis.pipeline() as pipe:
            while True:
                await pipe.watch(self._keys)
                present = await cast("Awaitable[Mapping[str, str]]", pipe.hgetall(self._keys))
                if any(_parse(*other).name == stored.name for other in present.items()):
                    raise InvalidKeyName(f"there is a key named {stored.name!r} already")
                if stored.id in present:  # one in 2**40
                    raise InvalidKeyName("two keys drew the same id; try again")
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.hset(self._keys, stored.id, stored.model_dump_json())
                try:
                    await pipe.execute()
                except WatchError:
                    continue  # another key was added meanwhile
                return

    async def list(self) -> list[KeyRecord]:
        """All keys, oldest first. Raises BadKeyRecord."""
        with _reported(self._redis):
            present = await self._all()
        records = [_public(_parse(key_id, raw)) for key_id, raw in present.items()]
        return sorted(records, key=lambda record: record.created)

    async def _all(self) -> Mapping[str, str]:
        return await cast("Awaitable[Mapping[str, str]]", self._redis.hgetall(self._keys))

    async def empty(self) -> bool:
        with _reported(self._redis):
            return await self._redis.hlen(self._keys) == 0

    async def revoke(self, name_or_id: str) -> str:
        """Ends a key at once and gives its id; its name is free again. Raises UnknownKey.

        By its id, a key whose record cannot be read ends too.
        """
        with _reported(self._redis):
            present = await self._all()
            key_id = name_or_id if name_or_id in present else None
            for other, raw in present.items() if key_id is None else ():
                if _parse(other, raw).name == name_or_id:
                    key_id = other
            if key_id is None or not await self._redis.hdel(self._keys, key_id):
                raise UnknownKey(f"no key has the name or id {name_or_id!r}")
        return key_id

    async def lookup(self, secret: str) -> KeyRecord:
        """Whose secret this is. Raises UnknownKey, which tells the client nothing more."""
        key_id = _id_of(secret)
        if key_id is None:
            raise UnknownKey("this is not a key of this gateway")
        with _reported(self._redis):
            raw = await cast("Awaitable[str | None]", self._redis.hget(self._keys, key_id))
        if raw is None:
            raise UnknownKey("no such key")
        stored = _parse(key_id, raw)
        if not hmac.compare_digest(stored.digest, _digest(secret)):
            raise UnknownKey("no such key")
        return _public(stored)


def _new_secret(key_id: str) -> str:
    body = f"gf_{key_id}{_base32(25)}"
    return f"{body}{zlib.crc32(body.encode()):08x}"


def _id_of(secret: str) -> str | None:
    match = SECRET.fullmatch(secret)
    if match is None or f"{zlib.crc32(match[1].encode()):08x}" != match[3]:
        return None
    return match[2]


def _base32(count: int) -> str:
    """Random bytes, five to eight letters."""
    return base64.b32encode(secrets.token_bytes(count)).decode().lower()


def _digest(secret: str) -> str:
    # Plain SHA-256 is right here: with 200 random bits there is nothing to guess, so the slowness
    # of a password hash would cost every request and protect nothing, and a salt or a server's own
    # HMAC key would only be one more thing to lose.
    return hashlib.sha256(secret.encode()).hexdigest()


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidKeyName(
            f"{name!r} cannot name a key: 1 to 64 letters (a-z), digits, `.`, `_` and `-`, "
            "a letter or digit first"
        )


def _parse(key_id: str, raw: str) -> _StoredKey:
    try:
        return _StoredKey.model_validate_json(raw)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "not JSON"
        raise BadKeyRecord(
            f"the record of key {key_id} cannot be read ({where}); it can be revoked by this id"
        ) from None


def _public(stored: _StoredKey) -> KeyRecord:
    return KeyRecord(**{name: getattr(stored, name) for name in KeyRecord.model_fields})


@contextmanager
def _reported(client: Redis) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise RedisUnavailable(f"Redis at {address(client)}: {type(error).__name__}") from error
