"""Posting to the upstream: pooled connections, tries before the first byte, errors without text."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import aiohttp

from model_runner.errors import (
    BadRequest,
    EngineFailed,
    NotAdmitted,
    Overloaded,
    RunnerError,
    Unavailable,
)

Result = TypeVar("Result")
AGAIN: Final = frozenset({429, 502, 503})
BACKOFF: Final = 0.1  # seconds before the second try, doubled before each further one
NOT_ADMITTED: Final = frozenset({401, 403})
MAX_ERROR_BYTES: Final = 64 * 1024
# Codes that hold no text of a user's. An engine's message may, and is never passed on.
SAFE_CODES: Final = frozenset(
    {
        "context_length_exceeded",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "string_above_max_length",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
        "content_filter",
    }
)
_CONTEXT: Final = re.compile(r"maximum context length is (\d{1,9}) tokens")


@dataclass(frozen=True, slots=True)
class Retry:
    """tries: in all. longest_wait: seconds; an upstream that asks for more is not tried again."""

    tries: int = 3
    longest_wait: float = 2.0


async def post(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, object],
    *,
    retry: Retry,
    timeout: float,  # noqa: ASYNC109 - of each try, which a caller cannot bound from outside
) -> aiohttp.ClientResponse:
    """A response of 200 whose events are still to be read; the caller closes it.

    Raises: BadRequest, Overloaded, Unavailable, NotAdmitted, EngineFailed.
    """
    return await _retried(lambda: _try(session, url, body, timeout, _events), retry)


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, object],
    *,
    retry: Retry,
    timeout: float,  # noqa: ASYNC109 - as above
) -> object:
    """The JSON of a 200. Raises: as `post`."""
    return await _retried(lambda: _try(session, url, body, timeout, _json), retry)


async def _retried(attempt: Callable[[], Awaitable[Result]], retry: Retry) -> Result:
    tries = 1
    while True:
        try:
            return await attempt()
        except _Again as again:
            wait = again.wait
            if wait is None:
                wait = BACKOFF * 2 ** (tries - 1) * random.uniform(0.5, 1.5)
            if tries >= retry.tries or wait > retry.longest_wait:
                raise again.error from None
        tries += 1
        await asyncio.sleep(wait)


class Answered(Unavailable):
    """The upstream answered with a status that the client cannot mend."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the upstream answered {status}")
        self.status = status


class _Again(Exception):
    """Worth another try. wait: seconds that the upstream asked for."""

    def __init__(self, error: RunnerError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


async def _try(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, object],
    limit: float,
    read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
) -> Result:
    try:
        async with asyncio.timeout(limit):
            response = await session.post(url, json=body, allow_redirects=False)
            if response.status == 200:
                return await read(response)
            async with response:
                raise _refusal(response, await _read_error(response), body)
    except aiohttp.ConnectionTimeoutError:
        raise Unavailable("the upstream does not answer") from None
    except TimeoutError:
        raise Unavailable("the upstream has not begun to answer in time") from None
    except (aiohttp.ClientConnectionError, ConnectionError):
        raise _Again(Unavailable("the upstream cannot be reached")) from None
    except aiohttp.ClientError:
        raise EngineFailed("the upstream does not speak HTTP as it should") from None


async def _json(response: aiohttp.ClientResponse) -> object:
    async with response:
        try:
            return await response.json()
        except (ValueError, aiohttp.ContentTypeError):
            raise EngineFailed("the upstream's answer is not JSON") from None


async def _events(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    if response.content_type == "application/json":
        response.close()
        raise EngineFailed("the upstream did not stream its answer")
    if response.content_type == "text/html":
        response.close()
        raise EngineFailed("the upstream answered 200 with a page: is that the address of an API?")
    return response


async def _read_error(response: aiohttp.ClientResponse) -> Mapping[str, object]:
    """The `error` object of the body; empty if there is none that we can read."""
    body = b""
    while len(body) < MAX_ERROR_BYTES and (part := await response.content.readany()):
        body += part
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    error = told.get("error", told)
    return error if isinstance(error, dict) else {"message": error}


def _refusal(
    response: aiohttp.ClientResponse, error: Mapping[str, object], body: Mapping[str, object]
) -> Exception:
    status = response.status
    wait = retry_after(response.headers)
    if status == 429:
        return _Again(Overloaded("the upstream is busy", wait or 1.0), wait)
    if status >= 500:
        unavailable = Unavailable(f"the upstream answered {status}")
        return _Again(unavailable, wait) if status in AGAIN else unavailable
    if status in (400, 413, 422):
        return _bad_request(error, body)
    # Our key, our address, our model: nothing that the client can mend.
    if status in NOT_ADMITTED:
        return not_admitted(status)
    return Answered(status)


def not_admitted(status: int) -> NotAdmitted:
    return NotAdmitted(
        f"the upstream answered {status}: it refuses this gateway's credentials, "
        "see the setting `upstream-key`"
    )


def _bad_request(error: Mapping[str, object], sent: Collection[str]) -> BadRequest:
    context = _CONTEXT.search(str(error.get("message", "")))
    if context:
        return BadRequest(f"the model's context is {context[1]} tokens", "messages")
    # A path such as `messages[0].content`: only its head, and only if it is a field that we sent.
    param = re.split(r"[.\[]", str(error.get("param")))[0]
    code = error.get("code")
    why = f": {code}" if code in SAFE_CODES else ""
    return BadRequest(f"the upstream refused the request{why}", param if param in sent else None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `retry-after` (seconds or an HTTP date) ask for."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if 0.0 <= seconds < float("inf"):
            return seconds
    try:
        when = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())
