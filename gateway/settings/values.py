"""Kinds of values that settings have, each with what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

#: How the address of a Redis begins.
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def _where(holds: Callable[[float], bool], said: str) -> Any:
    """said: what is wanted, with both ends, which pydantic tells one at a time.

    holds: false of what is no number, too, as comparisons are.
    """

    def check(value: float) -> float:
        if not holds(value):
            raise ValueError(said)
        return value

    return AfterValidator(check)


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("empty; leave it out for the default")
    return value


def _address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
    return value


def _redis_address(value: str) -> str:
    if not value.startswith(REDIS_SCHEMES):
        raise ValueError("an address begins with redis://, rediss:// or unix://")
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError("what stands for the port is none, from 0 to 65535") from None
    return value


def _long_enough(value: str) -> str:
    if len(value) < 16:
        raise ValueError("a key for hashes has 16 characters or more")
    return value


#: May be repeated; in the file, one text stands for a list of one.
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Name = Annotated[str, AfterValidator(_not_empty)]
Address = Annotated[str, AfterValidator(_address)]
RedisAddress = Annotated[str, AfterValidator(_redis_address)]
HashKey = Annotated[str, AfterValidator(_long_enough)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, _where(lambda n: 0 <= n <= 65535, "a port is a number from 0 to 65535")]
#: An hour at most.
Seconds = Annotated[float, _where(lambda s: 0 <= s <= 3600, "from 0 to 3600 seconds")]
SomeSeconds = Annotated[
    float, _where(lambda s: 0 < s <= 3600, "more than 0 and at most 3600 seconds")
]
