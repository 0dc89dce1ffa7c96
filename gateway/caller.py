"""Who is calling: a key's owner, or, where there are no keys, whoever is on this machine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.errors import ForbiddenOrigin, MissingKey, RedisUnavailable, UnknownKey
from gateway.keys import KeyRecord, KeyStore, Role
from gateway.limits.types import Limits

#: Keys that are remembered for when Redis is away and `limits.on_error` is `allow`.
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """id: names the key in limits and caches. policy: None for the default one."""

    id: str
    role: Role = "app"
    policy: str | None = None
    limits: Limits = field(default_factory=Limits)


class Gate:
    """Tells who calls, from the request's headers.

    limits: of callers without a key.
    keyless: there are no keys, and nobody but this machine can reach the server: whoever calls is
    let in, until there is a first key. Once there was one, none left (the last one revoked, a Redis
    that came back empty) lets nobody in.
    trust_memory: while Redis is away, go by what it said last.
    """

    def __init__(
        self, keys: KeyStore, limits: Limits, *, keyless: bool, trust_memory: bool = False
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._keyless = keyless
        self._trust_memory = trust_memory
        self._known: OrderedDict[str, KeyRecord] = OrderedDict()

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Raises MissingKey, UnknownKey, ForbiddenOrigin, RedisUnavailable."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        secret = secret or headers.get("x-api-key", "")
        if await self._lets_anyone_in():
            check_local(headers)
            return Caller("local", "operator", None, self._limits)
        if not secret:
            raise MissingKey("send your key as `Authorization: Bearer gf_…`")
        record = await self._lookup(secret)
        return Caller(record.id, record.role, record.policy, record.limits)

    async def _lets_anyone_in(self) -> bool:
        if not self._keyless:
            return False
        try:
            empty = await self._keys.empty()
        except RedisUnavailable:
            if not self._trust_memory:
                raise
            return True
        if not empty:
            self._keyless = False  # and never again: what was asked before may be answered after
        return self._keyless

    async def _lookup(self, secret: str) -> KeyRecord:
        digest = sha256(secret.encode()).hexdigest()
        try:
            record = await self._keys.lookup(secret)
        except RedisUnavailable:
            if not self._trust_memory or digest not in self._known:
                raise
            return self._known[digest]
        except UnknownKey:
            self._known.pop(digest, None)
            raise
        if self._trust_memory:
            self._known[digest] = record
            self._known.move_to_end(digest)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return record


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine alone."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_local(headers: Mapping[str, str]) -> None:
    """Refuse requests that a web page elsewhere made a browser send here.

    Without keys, being on this machine is all that lets a caller in; a page's DNS name bound to a
    loopback address, or a form posted across origins, must not. Raises ForbiddenOrigin.
    """
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        raise ForbiddenOrigin(
            "the Host header does not name this machine; add a key to serve others"
        )
    origin = headers.get("origin")
    if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
        raise ForbiddenOrigin(
            "requests from web pages elsewhere are refused; a proxy in front, which answers CORS, "
            "can let them in"
        )
