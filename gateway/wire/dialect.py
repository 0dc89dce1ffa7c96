"""What a dialect is: a route as data. Each is one file here, over one neutral request and exchange.

The way there and back is the same for all (`gateway.app`, `gateway.streaming`); a dialect says how
a body is read, how an answer is written, and how a frame and an error look.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Tag, model_validator

from gateway.errors import Form, openai_form
from gateway.exchange import Exchange
from model_runner.types import GenerateRequest

Json: TypeAlias = dict[str, Any]

# As JSON has them: no text stands for a number, and no truth value either.
Flag: TypeAlias = Annotated[bool, pydantic.Strict()]
Whole: TypeAlias = Annotated[int, pydantic.Strict()]
Number: TypeAlias = Annotated[float, pydantic.Strict()]

Item = TypeVar("Item")
#: A list of which the first bad item is told: of a million the errors alone would take seconds.
Many: TypeAlias = Annotated[list[Item], pydantic.Field(fail_fast=True)]


#: Unknown fields of one object that are told one by one. Of more, only that there are many.
MOST_UNKNOWN = 100


def Few(most: int) -> BeforeValidator:  # noqa: N802  (as pydantic's own)
    """An object of so many fields at most, which is seen before each is read."""

    def check(value: object) -> object:
        if isinstance(value, Mapping) and len(value) > most:
            raise ValueError(f"has {len(value)} fields, and {most} are taken at most")
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """A part of a body. Unknown fields are refused by name, unless they are null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        # Clients send back whole answers, in which all that was not said is null: it says nothing.
        if not isinstance(value, Mapping):
            return value
        known = cls.model_fields
        other = [name for name in value if name not in known]
        empty = {name for name in other if value[name] is None}
        if len(other) - len(empty) > MOST_UNKNOWN:
            raise ValueError(f"{len(other) - len(empty)} unrecognized fields")
        return {k: v for k, v in value.items() if k not in empty} if empty else value


class Generate(Strict):
    """A body that asks for an answer."""

    model: str
    stream: Flag | None = None

    def neutral(self, tenant: str) -> GenerateRequest:
        """The request as every engine takes it."""
        raise NotImplementedError


class Written(Protocol):
    """One exchange's answer, in a dialect. Either `whole`, or `chunks` and then `end`."""

    def chunks(self) -> AsyncIterator[Json]:
        """The stream's frames, all but those that say that it ended."""
        ...

    def end(self) -> Iterable[Json]:
        """The last frames; sent when the exchange is settled."""
        ...

    def fault(self, error: Json) -> Json:
        """A frame that says that the stream broke. `error`: the error's body in this dialect."""
        ...

    async def whole(self) -> Json:
        """The answer as one object, of the same events."""
        ...


Body = TypeVar("Body", bound=Generate)


@dataclass(frozen=True)
class Dialect(Generic[Body]):
    """A route.

    answer: called with the body, the exchange, the model's name and whether filter results were
        asked for.
    frame: a chunk as a server-sent event. waiting: sent when there has been none for long.
    done: sent behind the last frame of a stream that did not break.
    error: an error's body.
    annotates: whether its answers have a place for what the filters found.
    """

    path: str
    body: type[Body]
    answer: Callable[[Body, Exchange, str, bool], Written]
    frame: Callable[[Json], bytes]
    waiting: bytes = b": waiting\n\n"
    done: bytes = b""
    error: Form = openai_form
    annotates: bool = False


def frame(chunk: Json) -> bytes:
    """A server-sent event that holds `chunk`."""
    return (
        b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def named_frame(chunk: Json) -> bytes:
    """A server-sent event that holds `chunk` and is called by its type."""
    return f"event: {chunk['type']}\n".encode() + frame(chunk)


def by_type(default: str = "") -> Discriminator:
    """Picks, of a union, the member tagged `[type]`; the brackets keep tags out of fields' paths.

    default: the type of an object that says none.
    """

    def tag(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"[{value.get('type', default)}]"
        return f"[{getattr(value, 'type', default)}]"

    return Discriminator(tag)


def by_form(said: str) -> Discriminator:
    """Picks, of a union, the member tagged `[text]`, `[list]` or `[object]`, as the JSON is.

    So errors are about what was meant. said: what the field takes, where it is none of these.
    """

    def tag(value: Any) -> str | None:
        if isinstance(value, str):
            return "[text]"
        if isinstance(value, list):
            return "[list]"
        return "[object]" if isinstance(value, Mapping | BaseModel) else None

    return Discriminator(tag, custom_error_type="form", custom_error_message=f"must be {said}")


#: A text, or a list of parts.
TextOrParts: TypeAlias = Annotated[
    Annotated[str, Tag("[text]")] | Annotated[Many[Item], Tag("[list]")],
    by_form("a text, or a list of parts"),
]
#: OpenAI's choice of a tool; the object that names one is `Item`.
ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[text]")]
    | Annotated[Item, Tag("[object]")],
    by_form("`none`, `auto`, `required`, or an object that names a function"),
]


def refused(why: str) -> BeforeValidator:
    """For a field that only `null` is taken for."""
    return only(None, why)


def only(taken: object, why: str) -> BeforeValidator:
    """For a field that only `null` and one value are taken for."""

    def check(value: object) -> object:
        # By type too, since 0 is equal to false.
        if value is not None and (type(value) is not type(taken) or value != taken):
            raise ValueError(why)
        return value

    return BeforeValidator(check)


#: Answers are not kept.
NotStored: TypeAlias = Annotated[
    Literal[False] | None, only(False, "must be false: no answers are kept here")
]
#: Padding of frames against guesses from their sizes.
NotPadded: TypeAlias = Annotated[Literal[False] | None, only(False, "must be false: none is sent")]


def check_choice(name: object, tools: Iterable[str]) -> None:
    """Refuse the choice of a tool that is not there. Raises ValueError."""
    if isinstance(name, str) and name not in tools:
        raise ValueError("it names a function that `tools` does not have")


def check_stops(stops: Sequence[str]) -> None:
    """Raises ValueError."""
    if len(stops) > 4 or not all(stops):
        raise ValueError("up to 4 texts, none of them empty")
