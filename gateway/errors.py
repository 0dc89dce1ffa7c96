"""
GatewayError
├── RedisUnavailable        Redis cannot be started or reached, or does not answer in time
│   ├── DirectoryInUse          … because another process runs one on the same data directory
│   └── LimitsUnavailable       … while asked about limits; `limits.on_error` decides
├── LimitExceeded           a key has used up one of its limits
├── MissingKey              a key is needed and none was sent
├── UnknownKey              no such key: never was, revoked, or mistyped
│   └── BadKeyRecord            its stored record cannot be read (closed, not open)
├── InvalidKeyName          a name that a new key cannot have
├── ForbiddenOrigin         a request that a web page elsewhere made a browser send
├── UnknownPolicy           a key names a policy that is not loaded
├── UnknownPath             no endpoint is at this path
├── WrongMethod             the endpoint at this path takes other methods
├── UnknownModel            the model asked for is not served here
├── UnknownDetector         the detector asked for is no policy or filter of the caller's
├── DetectorFailed          a filter failed, so that nothing can be said of a text
├── ScreeningFailed         a filter failed, and the policy lets nothing pass unscreened
├── InvalidBody             the request's body is not what the endpoint takes; names the field
├── RequestLate             the request did not arrive in time
├── UnreadableEncoding      the request's body is compressed
├── PromptBlocked           the policy blocked the prompt
├── ClientGone              the client went away before the answer
├── ShuttingDown            the gateway is going down and takes nothing new
├── EngineLost              the engine will not serve again in this process
├── SettingsInvalid         flags, environment and file do not make settings
└── CalibrationImpossible   labelled texts say nothing of what a judge's answers are worth

The table at the end turns these, and those of the other packages, into HTTP.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gateway.filter_results import filter_results
from gateway.languages import accepted
from gateway.limits.types import retry_headers
from model_runner import errors as runner
from policies.types import Verdict

log = logging.getLogger("gardefou.errors")


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
    asked: what this request would take.
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
        *,
        asked: int,
    ) -> None:
        message = f"limit of {limit} {kind} reached, {remaining} left"
        if retry_after is not None:
            message += f"; try again in {retry_after:.3f} s"
        else:
            message = (
                f"this request asks for {asked} {kind}, which can never fit the limit of {limit}"
            )
            if kind == "tokens":
                message += " a minute: the prompt is counted, and `max_tokens` for each answer"
        super().__init__(message)
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


class MissingKey(GatewayError):
    """A key is needed and none was sent."""


class ForbiddenOrigin(GatewayError):
    """A request that a web page elsewhere made a browser send."""


class UnknownPolicy(GatewayError):
    """A key names a policy that is not loaded. The request is refused: no laxer one steps in."""


class UnknownPath(GatewayError):
    """No endpoint is at this path."""


class WrongMethod(GatewayError):
    """The endpoint at this path takes other methods. `allow`: those, by commas."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class UnknownModel(GatewayError):
    """The model asked for is not served here."""


class UnknownDetector(GatewayError):
    """The detector asked for is no policy or filter that the caller may use."""


class DetectorFailed(GatewayError):
    """A filter failed, so that nothing can be said of the text. Which one is not told."""


class InvalidBody(GatewayError):
    """The request's body is not what the endpoint takes. `param`: the field, by its path."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class RequestLate(GatewayError):
    """The request, or a part of its body, did not arrive in time."""


class UnreadableEncoding(GatewayError):
    """The request's body is compressed, which is not read here."""


class PromptBlocked(GatewayError):
    """The policy blocked the prompt.

    path: the text at fault. say: what to say, by language; that of the text stands first.
    """

    def __init__(
        self, path: tuple[str | int, ...], verdict: Verdict, say: Mapping[str, str]
    ) -> None:
        super().__init__("the policy blocked the prompt")
        self.path = path
        self.verdict = verdict
        self.say = say


class ScreeningFailed(GatewayError):
    """A filter failed or was overloaded, and the policy lets nothing pass unscreened."""


class ClientGone(GatewayError):
    """The client went away before the answer."""


class ShuttingDown(GatewayError):
    """The gateway is going down and takes nothing new."""


class EngineLost(GatewayError):
    """The engine will not serve again in this process, which therefore ends."""


class SettingsInvalid(GatewayError):
    """Flags, environment and file do not make settings. Names each."""


class CalibrationImpossible(GatewayError):
    """Labelled texts say nothing of what a judge's answers are worth, or are none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How an error is told: HTTP status, OpenAI's `type` and `code`."""

    status: int
    type: str
    code: str | None = None
    tell: bool = True  # whether the error's own message goes out


INVALID, SERVER = "invalid_request_error", "server_error"

#: The most special class first.
TABLE: Sequence[tuple[type[Exception], Answer]] = (
    (PromptBlocked, Answer(400, INVALID, "content_filter")),
    (InvalidBody, Answer(400, INVALID)),
    (RequestLate, Answer(408, INVALID, "request_timeout")),
    (UnreadableEncoding, Answer(415, INVALID, "unsupported_encoding")),
    (UnknownPath, Answer(404, INVALID, "unknown_url")),
    (WrongMethod, Answer(405, INVALID, "method_not_supported")),
    (UnknownModel, Answer(404, INVALID, "model_not_found")),
    (UnknownDetector, Answer(404, INVALID, "detector_not_found")),
    (DetectorFailed, Answer(503, SERVER, "detector_failed")),
    (ScreeningFailed, Answer(503, SERVER, "screening_failed")),
    (MissingKey, Answer(401, INVALID, "missing_api_key")),
    (UnknownKey, Answer(401, INVALID, "invalid_api_key")),
    (ForbiddenOrigin, Answer(403, INVALID, "forbidden_origin")),
    (UnknownPolicy, Answer(503, SERVER, "policy_unavailable")),
    (LimitExceeded, Answer(429, "rate_limit_error", "rate_limit_exceeded")),
    (RedisUnavailable, Answer(503, SERVER, "limits_unavailable", tell=False)),
    (ShuttingDown, Answer(503, SERVER, "shutting_down")),
    (ClientGone, Answer(499, SERVER, "client_gone")),
    (runner.BadRequest, Answer(400, INVALID)),
    (runner.Overloaded, Answer(503, SERVER, "overloaded")),
    (runner.Unavailable, Answer(503, SERVER, "engine_unavailable", tell=False)),
    (runner.NotAdmitted, Answer(502, SERVER, "engine_refused_credentials", tell=False)),
    (runner.RunnerError, Answer(500, SERVER, "engine_failed", tell=False)),
)
_UNFORESEEN = Answer(500, SERVER, "internal_error", tell=False)
_UNTOLD = {
    "limits_unavailable": "The gateway cannot check limits now. Try again shortly.",
    "engine_unavailable": "The engine is not there. Try again shortly.",
    "engine_refused_credentials": "The engine refused this gateway's credentials.",
    "engine_failed": "The engine failed on this request.",
    "internal_error": "The gateway failed on this request.",
}


def short(text: str, most: int = 100) -> str:
    """What a client wrote, as it stands in a message: cut where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


#: Writes an error in a dialect, from its status and OpenAI's fields.
Form: TypeAlias = Callable[[int, dict[str, Any]], dict[str, Any]]


def openai_form(status: int, fields: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """OpenAI's envelope."""
    return {"error": fields}


def http_error(
    error: Exception, language: str = "", form: Form = openai_form
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for `error`.

    language: the request's `Accept-Language`; picks what a policy's `say` tells.
    form: how the dialect writes it.
    """
    answer = next((a for kind, a in TABLE if isinstance(error, kind)), _UNFORESEEN)
    if answer is _UNFORESEEN:
        # Where it happened, but not its message: that may hold a user's text.
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("unforeseen %s\n%s", type(error).__name__, where)
    body: dict[str, Any] = {
        "message": str(error) if answer.tell else _UNTOLD[answer.code or ""],
        "type": answer.type,
        "param": getattr(error, "param", None),
        "code": answer.code,
    }
    headers: dict[str, str] = {}
    if isinstance(error, PromptBlocked):
        body |= _blocked(error, language)
    elif isinstance(error, LimitExceeded):
        headers |= error.headers
        body["type"] = error.kind
    elif isinstance(error, RequestLate):
        headers["connection"] = "close"  # what still comes of it is no request
    elif isinstance(error, WrongMethod):
        headers["allow"] = error.allow
    elif isinstance(error, runner.NotAdmitted):
        headers["x-should-retry"] = "false"  # OpenAI's clients would, for any 5xx
    elif isinstance(error, runner.Overloaded):
        headers |= retry_headers(error.retry_after)
    elif answer.status == 503:
        headers |= retry_headers(1.0)
    return answer.status, form(answer.status, body), headers


def _blocked(error: PromptBlocked, language: str) -> dict[str, Any]:
    said = {tag.lower(): text for tag, text in error.say.items()}
    # Each as it is, then without its region: of `fr-CA`, `fr`.
    wanted = [known for tag in accepted(language) for known in (tag, tag.split("-")[0])]
    first = next(iter(said.values()), "The prompt was blocked by this gateway's policy.")
    message = next((said[tag] for tag in wanted if tag in said), first)
    return {
        "message": message,
        "param": "prompt",
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": filter_results([error.verdict]),
        },
    }
