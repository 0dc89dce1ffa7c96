"""
GatewayError
├── RedisUnavailable        Redis cannot be started or reached, or does not answer in time
│   ├── DirectoryInUse          … because another process runs one on the same data directory
│   └── LimitsUnavailable       … while asked about limits; `limits.on_error` decides
├── LimitExceeded           a key has used up one of its limits
├── UnknownKey              no such key: never was, revoked, or mistyped
│   └── BadKeyRecord            its stored record cannot be read (closed, not open)
└── InvalidKeyName          a name that a new key cannot have
"""

from __future__ import annotations

from collections.abc import Mapping


class GatewayError(Exception):
    """Base of all errors of this package. Messages hold no user's text and no secret."""


class RedisUnavailable(GatewayError):
    """Redis cannot be started or reached, or does not answer in time."""


class DirectoryInUse(RedisUnavailable):
    """Another process runs an embedded Redis on this data directory."""


class LimitsUnavailable(RedisUnavailable):
    """Redis did not answer about limits; `limits.on_error` decides."""


class LimitExceeded(GatewayError):
    """A key has used up one of its limits. Nothing was taken.

    kind: requests | tokens | streams | blocks.
    limit, remaining: in the kind's unit, `remaining` before this request.
    reset_seconds: until all of the limit is free again, nothing more being used.
    retry_after: seconds until this very request would pass; None if it never will.
    headers: ready for the 429 response.
    """

    def __init__(
        self,
        kind: str,
        limit: int,
        remaining: int,
        reset_seconds: float,
        retry_after: float | None,
        headers: Mapping[str, str],
    ) -> None:
        wait = "it can never fit" if retry_after is None else f"try again in {retry_after:.3f} s"
        super().__init__(f"limit of {limit} {kind} reached, {remaining} left; {wait}")
        self.kind = kind
        self.limit = limit
        self.remaining = remaining
        self.reset_seconds = reset_seconds
        self.retry_after = retry_after
        self.headers = headers


class UnknownKey(GatewayError):
    """No such key: never was, revoked, or mistyped."""


class BadKeyRecord(UnknownKey):
    """The key's stored record cannot be read, so the key does not count."""


class InvalidKeyName(GatewayError):
    """A new key cannot have this name. The message says why."""
