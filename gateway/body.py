"""A request's body: from bytes to what an endpoint takes, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from gateway.errors import ClientGone, InvalidBody, UnreadableEncoding, short

Body = TypeVar("Body", bound=BaseModel)

#: Bytes of a request's body. A context of 128 Ki tokens is about half a megabyte of text.
MOST_BYTES = 8 * 1024 * 1024


async def read_body(request: Request, shape: type[Body]) -> Body:
    """The request's body. Raises InvalidBody, naming the field, and UnreadableEncoding."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnreadableEncoding(
            f"bodies of content-encoding `{short(encoding)}` are not read; send it as it is"
        )
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > MOST_BYTES:
                raise InvalidBody(f"the body has more than {MOST_BYTES} bytes", None)
    except ClientDisconnect:
        raise ClientGone("the client went away") from None
    try:
        return shape.model_validate_json(bytes(raw))
    except ValidationError as error:
        # Unions are told apart before they are read, so that every error is about what was meant.
        raise _named(error.errors()[0]) from error


def _named(error: Mapping[str, Any]) -> InvalidBody:
    """What is wrong with a body, and the field, as `messages[0].content`."""
    kind = error["type"]
    if kind == "json_invalid":
        return InvalidBody(f"the body is not JSON: {error['ctx']['error']}", None)
    param = _param(error["loc"], tags=kind != "extra_forbidden")
    if kind == "union_tag_invalid":
        param, tag = f"{param}.type", short(error["ctx"]["tag"].strip("[]"))
        return InvalidBody(f"{param}: {tag!r} cannot be screened, and is refused", param)
    if kind == "extra_forbidden":
        return InvalidBody(f"Unrecognized request argument supplied: {param}", param)
    if kind == "literal_error" and error["loc"][-1] == "type":
        given = short(repr(error["input"]))
        return InvalidBody(f"{param}: {given} cannot be screened, and is refused", param)
    message = str(error["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        message = f"must be {error['ctx']['expected']}"
    return InvalidBody(f"{param}: {message}" if param else message, param)


def _param(loc: tuple[str | int, ...], *, tags: bool) -> str | None:
    """tags: whether the last of the path can be one: an unknown field is whatever it is called."""
    if "[key]" in loc:  # a mapping's bad key is no field, but what the client wrote
        loc = loc[: loc.index("[key]") - 1]
    # Tags of unions stand in the path in brackets.
    path = [p for p in loc[:-1] if not str(p).startswith("[")]
    path += [p for p in loc[-1:] if not (tags and str(p).startswith("["))]
    written = (f"[{p}]" if isinstance(p, int) else f".{short(p)}" for p in path)
    return "".join(written).lstrip(".") or None
