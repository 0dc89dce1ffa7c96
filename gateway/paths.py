"""Requests that no endpoint answers: what to say, and in whose form."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.errors import Form, UnknownPath, WrongMethod, openai_form, short
from gateway.wire import anthropic_messages, detections

#: Anthropic's clients say so with every request, whatever the path.
ANTHROPIC = "anthropic-version"


def form_of(path: str, headers: Mapping[str, str]) -> Form:
    """The form of errors that whoever asks for `path` reads."""
    if path.startswith(detections.PATH.rpartition("/")[0]):
        return detections.form
    messages = anthropic_messages.DIALECT.path
    if ANTHROPIC in headers or path.startswith((messages, f"/v1{messages}")):
        return anthropic_messages.error_form
    return openai_form


def unknown(method: str, path: str, known: Collection[str]) -> UnknownPath:
    """No endpoint is at `path`; `known` are the paths of those there are."""
    bare = path.rstrip("/")
    said = f"there is no {method} {short(path)} here"
    if f"/v1{bare}" in known:
        said += f"; it is /v1{bare}: the base_url of OpenAI's clients ends in /v1"
    elif path.startswith("/v1/v1/"):
        said += f"; it is {short(bare[3:])}: the base_url has one /v1 too many"
    elif bare != path and (bare in known or bare.startswith("/v1/models/")):
        said += f"; it is {short(bare)}, without a slash at the end"
    return UnknownPath(said)


def wrong_method(method: str, path: str, allow: str) -> WrongMethod:
    """`path` does not take `method`. allow: those that it takes, by commas."""
    methods = ", ".join(sorted(allow.replace(",", " ").split()))
    said = f"{short(path)} does not take {method}, only {methods}"
    if method == "OPTIONS":
        # What a browser asks before it sends anything from a page elsewhere.
        said += (
            "; this gateway sends no CORS headers, with a key or without: "
            "for web pages elsewhere, put a proxy in front that does"
        )
    return WrongMethod(said, methods)
