"""The neutral conversation: every text of a request that reaches the model, each with its place.

Dialects map to `GenerateRequest`; this module lists the texts in it and puts screened ones back, so
that what is screened and what the model reads cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import overload

from filters.types import Stage, Turn
from model_runner.types import GenerateRequest, Message, Tool, ToolCall

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One text of a request. `path`: where it stands, by OpenAI's names."""

    path: Place
    role: str
    stage: Stage
    text: str


def parts(request: GenerateRequest) -> Iterator[Part]:
    """Every text of `request` that reaches the model."""
    if request.prompt is not None:
        yield Part(("prompt",), "user", "input", request.prompt)
    for number, message in enumerate(request.messages or ()):
        here: Place = ("messages", number)
        stage: Stage = "tool_result" if message.role == "tool" else "input"
        yield Part((*here, "content"), message.role, stage, message.content)
        if message.name:
            yield Part((*here, "name"), message.role, "input", message.name)
        if message.tool_call_id:
            yield Part((*here, "tool_call_id"), message.role, "input", message.tool_call_id)
        for index, call in enumerate(message.tool_calls):
            there = (*here, "tool_calls", index, "function")
            yield Part((*there[:-1], "id"), message.role, "input", call.id)  # templates write it
            yield Part((*there, "name"), message.role, "input", call.name)
            yield Part((*there, "arguments"), message.role, "input", call.arguments)
    for number, tool in enumerate(request.tools):
        there = ("tools", number, "function")
        yield Part((*there, "name"), "developer", "input", tool.name)
        if tool.description:
            yield Part((*there, "description"), "developer", "input", tool.description)
        if tool.parameters:
            schema = json.dumps(tool.parameters, ensure_ascii=False)
            yield Part((*there, "parameters"), "developer", "input", schema)
    if request.tool_choice is not None and not isinstance(request.tool_choice, str):
        choice = json.dumps(request.tool_choice, ensure_ascii=False)
        yield Part(("tool_choice",), "developer", "input", choice)
    for number, stop in enumerate(request.sampling.stop):
        yield Part(("stop", number), "user", "input", stop)


def with_texts(request: GenerateRequest, texts: Mapping[Place, str]) -> GenerateRequest:
    """`request` with texts of `parts` replaced.

    Raises ValueError if a tool's schema, or the choice of one, is no longer JSON.
    """
    if not texts:
        return request

    def message(number: int, old: Message) -> Message:
        here: Place = ("messages", number)
        calls = tuple(
            ToolCall(
                texts.get((*here, "tool_calls", i, "id"), call.id),
                texts.get((*here, "tool_calls", i, "function", "name"), call.name),
                texts.get((*here, "tool_calls", i, "function", "arguments"), call.arguments),
            )
            for i, call in enumerate(old.tool_calls)
        )
        content = texts.get((*here, "content"), old.content)
        name = texts.get((*here, "name"), old.name) if old.name else old.name
        answered = old.tool_call_id and texts.get((*here, "tool_call_id"), old.tool_call_id)
        return replace(old, content=content, name=name, tool_calls=calls, tool_call_id=answered)

    def tool(number: int, old: Tool) -> Tool:
        here: Place = ("tools", number, "function")
        schema = texts.get((*here, "parameters"))
        return replace(
            old,
            name=texts.get((*here, "name"), old.name),
            description=texts.get((*here, "description"), old.description or "") or None,
            parameters=json.loads(schema) if schema is not None else old.parameters,
        )

    stop = tuple(texts.get(("stop", n), s) for n, s in enumerate(request.sampling.stop))
    choice = texts.get(("tool_choice",))
    messages = request.messages
    if messages is not None:
        messages = tuple(message(n, old) for n, old in enumerate(messages))
    return replace(
        request,
        messages=messages,
        prompt=texts.get(("prompt",), request.prompt or "") if request.prompt else request.prompt,
        tools=tuple(tool(n, old) for n, old in enumerate(request.tools)),
        tool_choice=request.tool_choice if choice is None else json.loads(choice),
        sampling=replace(request.sampling, stop=stop),
    )


def turns(request: GenerateRequest) -> tuple[Turn, ...]:
    """The conversation as plain turns, oldest first; a turn's calls stand behind its content."""
    return tuple(Turn(m.role, _said(m)) for m in request.messages or ())


def _said(message: Message) -> str:
    calls = [f"{call.name} {call.arguments}" for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


class Surroundings:
    """What stands before and around each text, all of which a judge reads: tools, names and all.

    As digests, each of all before it: a conversation is read once, however many texts it has.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request

    def of(self, part: Part) -> tuple[str, ...]:
        """Equal for texts of equal surroundings."""
        if part.path[0] != "messages":
            return (self._tools,)
        return (self._tools, *self._messages[int(part.path[1])])

    @cached_property
    def _tools(self) -> str:
        return _digest(repr((self._request.tools, self._request.tool_choice)))

    @cached_property
    def _messages(self) -> Sequence[tuple[str, str]]:
        """Of each message: all before it, and what it holds beside its content."""
        before, found = "", []
        for message in self._request.messages or ():
            found.append((before, _digest(repr(replace(message, content="")))))
            before = _digest(before + repr(message))
        return found


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Before(Sequence[Turn]):
    """The first `length` turns, without a copy: thousands of texts have each their own."""

    def __init__(self, turns: Sequence[Turn], length: int) -> None:
        self._turns = turns
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Turn]: ...
    def __getitem__(self, at: int | slice) -> Turn | Sequence[Turn]:
        places = range(self._length)[at]
        if isinstance(places, int):
            return self._turns[places]
        return [self._turns[place] for place in places]


def preceding(request: GenerateRequest) -> str:
    """The text that the answer continues: the prompt, or a last message of the assistant's own."""
    if request.prompt is not None:
        return request.prompt
    last = request.messages[-1] if request.messages else None
    return last.content if last is not None and last.role == "assistant" else ""
