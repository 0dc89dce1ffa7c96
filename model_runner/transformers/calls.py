"""Tool calls in what a model writes: from a control token to the end of its answer.

Mistral has two forms. Up to tokenizer v7 it is a list, `[TOOL_CALLS][{"name": …, "arguments": …}]`;
from v11 on each call stands by itself, `[TOOL_CALLS]name[ARGS]{…}`, in v11 with `[CALL_ID]id` in
between. What is in capitals are control tokens, which no content can spell.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

from model_runner.errors import BadRequest, Unsupported
from model_runner.types import Channel, Delta, GenerateRequest, Tool, ToolHead

#: Ids of calls, as Mistral's formats take them.
ID = re.compile(r"[A-Za-z0-9]{9}")
LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class CallTokens:
    """Ids of control tokens. arguments: before a call's arguments; None: calls are a list."""

    begin: int
    arguments: int | None = None
    id: int | None = None


class CallReader:
    """Finds the calls in the deltas of one choice.

    A call leaves whole, with the end of the answer. What is no call after all, or is cut off,
    leaves as content.

    forced: the prompt ends with the token that begins a call.
    """

    def __init__(self, tokens: CallTokens, *, forced: bool = False) -> None:
        self._tokens = tokens
        self._forced = forced
        self.rewind(0)

    def rewind(self, to: int) -> None:
        """What comes next is written behind `to` characters of content."""
        self._at = to  # how far the choice's text was read
        self._calls: str | None = None  # the text behind the first call's token
        self._marks: list[tuple[int, int]] = []  # control tokens in it, and where they stand
        if self._forced and not to:
            self._calls, self._marks = "", [(self._tokens.begin, 0)]

    def read(self, delta: Delta) -> Iterator[Delta]:
        """What `delta` gives: content, and behind its end the calls."""
        start, self._at = self._at, self._at + len(delta.text)
        first, text = 0, delta.text
        if self._calls is None:
            if self._tokens.begin not in delta.token_ids:
                yield delta
                return
            first = delta.token_ids.index(self._tokens.begin)
            content = text[: max(0, delta.token_ends[first] - start)]
            if first or content:
                yield _until(delta, first, content)
            self._calls, text, start = "", text[len(content) :], start + len(content)
        begin = start - len(self._calls)
        controls = {self._tokens.begin, self._tokens.arguments, self._tokens.id}
        for token, end in zip(delta.token_ids[first:], delta.token_ends[first:], strict=True):
            if token in controls:
                self._marks.append((token, max(0, end - begin)))
        self._calls += text
        if delta.finish_reason is not None:
            yield from self._end(delta, self._calls)

    def _end(self, delta: Delta, text: str) -> Iterator[Delta]:
        calls: list[tuple[ToolHead, str]] = []
        if delta.finish_reason == "stop":
            try:
                calls = list(self._parsed(text))
            except (ValueError, RecursionError):
                calls = []
        for index, (head, arguments) in enumerate(calls):
            yield Delta(Channel("tool_call", index), arguments, tool=head)
        if calls:
            yield Delta(finish_reason="tool_calls", usage=delta.usage)
        else:
            yield Delta(text=text, finish_reason=delta.finish_reason, usage=delta.usage)

    def _parsed(self, text: str) -> Iterator[tuple[ToolHead, str]]:
        """Raises ValueError or RecursionError where the text holds something else than calls."""
        places = [at for _, at in self._marks]
        said = [
            (token, text[at:end])
            for (token, at), end in zip(self._marks, [*places[1:], len(text)], strict=True)
        ]
        if self._tokens.arguments is not None:
            yield from self._single(said)
            return
        for _, calls in said:
            yield from _listed(calls)

    def _single(self, said: Iterable[tuple[int, str]]) -> Iterator[tuple[ToolHead, str]]:
        name = given = ""
        for token, text in said:
            if token == self._tokens.begin:
                if name:
                    raise ValueError("a call without arguments")
                name, given = text.strip(), ""
            elif token == self._tokens.id:
                given = text.strip()
            else:
                yield _call(name, text.strip(), given)
                name = ""
        if name:
            raise ValueError("a call without arguments")


def offered(request: GenerateRequest) -> tuple[tuple[Tool, ...], bool]:
    """The tools that the model is told of, and whether it must call one.

    Raises: BadRequest (the choice of a tool that is not there), Unsupported (another choice).
    """
    choice, tools = request.tool_choice, request.tools
    if choice is None or choice == "auto":
        return tools, False
    if choice == "none":
        return (), False
    if isinstance(choice, Mapping):
        function = choice.get("function")
        if choice.get("type") != "function" or not isinstance(function, Mapping):
            raise Unsupported(
                "tool_choice: this engine takes a function's name alone", "tool_choice"
            )
        tools = tuple(tool for tool in tools if tool.name == function.get("name"))
    elif choice != "required":
        raise Unsupported("tool_choice: this engine knows auto, none and required", "tool_choice")
    if not tools:
        raise BadRequest("tool_choice: there is no such tool", "tool_choice")
    return tools, True


def short(given: str) -> str:
    """An id as Mistral's formats take it, equal for equal ones: clients bring any engine's."""
    return given if ID.fullmatch(given) else sha256(given.encode()).hexdigest()[:9]


def _until(delta: Delta, tokens: int, text: str) -> Delta:
    """The first `tokens` of a delta, with their text."""
    signals = cast("Any", delta.signals)
    return replace(
        delta,
        text=text,
        token_ids=delta.token_ids[:tokens],
        token_ends=delta.token_ends[:tokens],
        logprobs=delta.logprobs[:tokens],
        finish_reason=None,
        usage=None,
        signals=signals
        and {"probes": {name: told[:tokens] for name, told in signals["probes"].items()}},
    )


def _listed(text: str) -> Iterator[tuple[ToolHead, str]]:
    calls = _json(text)
    if not isinstance(calls, list) or not calls:
        raise ValueError("no list of calls")
    for call in calls:
        if not isinstance(call, dict):
            raise ValueError("no call")  # noqa: TRY004  (as if it were no JSON)
        arguments = call.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield _call(call.get("name"), arguments, call.get("id"))


def _call(name: object, arguments: str, given: object) -> tuple[ToolHead, str]:
    if not isinstance(name, str) or not name or not isinstance(_json(arguments), dict):
        raise ValueError("no call")
    for text in (name, arguments):
        text.encode()  # an escape may stand for half a surrogate pair, which is no text
    fits = isinstance(given, str) and ID.fullmatch(given)
    id_ = str(given) if fits else "".join(secrets.choice(LETTERS) for _ in range(9))
    return ToolHead(id_, name), arguments


def _json(text: str) -> object:
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
