"""The shape of a policy's YAML. `gardefou policy schema` prints it as JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import regex
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from filters.errors import no_text, quoted
from filters.views import GROUPS, VIEWS
from policies.errors import COLON

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Score = Annotated[float, Field(ge=0.0, le=1.0)]
Note = Annotated[str, Field(min_length=1, max_length=2000)]

Role = Literal["system", "developer", "user", "assistant", "tool"]


def _one_or_many(item: dict[str, object]) -> dict[str, object]:
    return {"anyOf": [item, {"type": "array", "items": item}]}


# What may be written, for editors: validators take a single text for a list of one.
_TEXT: dict[str, object] = {"type": "string"}
_TEXTS = _one_or_many(_TEXT)
_ROLE: dict[str, object] = {"enum": list(get_args(Role))}
_VIEW: dict[str, object] = {"enum": [*VIEWS, *GROUPS]}
#: A language, perhaps of a region: en, gsw, pt-BR.
_LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"
_BY_LANGUAGE = {
    "type": "object",
    "propertyNames": {"pattern": _LANGUAGE},
    "additionalProperties": _TEXT,
    "minProperties": 1,
}
_SAY: dict[str, object] = {"anyOf": [_TEXT, _BY_LANGUAGE]}
Texts = Annotated[tuple[str, ...], WithJsonSchema(_TEXTS)]


class Misplaced(ValueError):
    """What is wrong with a part of a value: `path` leads there from the value's place."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Hold(_Strict):
    """How much a filter may hold back, and what happens past that.

    characters: for one live start of a pattern. ms: for one feed of a filter; past it, `on_error`.
    """

    characters: Annotated[int, Field(ge=64, le=65536)] = 4096
    ms: Annotated[int, Field(ge=1, le=600_000)] = 2000
    then: Literal["block", "allow"] = "block"


class When(_Strict):
    """`{<filter>: <category> | [<category>, …] | any, at: <score>, except: [<glob>, …]}`."""

    filter: str
    categories: tuple[str, ...] = ()
    at: Score = 0.5
    but: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("expected {filter: category, at: score}")  # noqa: TRY004
        asked = [key for key in value if key not in {"at", "except"}]
        if len(asked) != 1:
            names = ", ".join(asked) or "none"
            beside = "; beside it stand `at` and `except`" if asked else ""
            raise ValueError(f"one rule asks one filter; found {names}{beside}")
        found = value[asked[0]]
        categories = found if isinstance(found, list) else [found]
        if not categories or not all(isinstance(c, str) and c for c in categories):
            raise ValueError(f"`{asked[0]}: …` takes a category, a list of them, or `any`")
        flat = {"filter": asked[0], "categories": () if "any" in categories else tuple(categories)}
        if "at" in value:
            flat["at"] = _score(value["at"])
        if "except" in value:
            try:
                flat["but"] = _texts(value["except"], "except", free=True)
            except Misplaced as error:
                raise Misplaced(str(error), "except", *error.path) from error
        return flat

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The form that is written, not the one that it is flattened to."""
        made = handler.resolve_ref_schema(handler(core))
        return {
            "type": "object",
            "description": made["description"],
            "properties": {"at": made["properties"]["at"], "except": _TEXTS},
            "additionalProperties": _TEXTS,
            "minProperties": 1,
        }


class Examples(_Strict):
    """Texts that the rule must answer and texts that it must let pass.

    hit: a list, or `{text: text as released}`.
    """

    hit: Texts | dict[str, str] = ()
    pass_: Annotated[Texts, Field(alias="pass")] = ()

    @field_validator("hit", "pass_", mode="before")
    @classmethod
    def _listed(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict) or info.field_name == "pass_":
            return _texts(value, str(info.field_name).rstrip("_"), free=True)
        for text, released in value.items():
            if not isinstance(released, str):
                wrong = "`hit` takes texts, or text → text as released"
                raise Misplaced(no_text(released) or wrong, text)
        return value


class With(_Strict):
    """What a redaction puts in place: one of these, or `tag` for `[CATEGORY]`.

    mask: shows the last so many characters, and `*` for the rest. hash: `[CATEGORY:digits]`, keyed
    by the settings; the name keeps hashes of different uses apart. text: those words.
    """

    mask: Annotated[int, Field(ge=0, le=16)] | None = None
    hash: Name | None = None
    text: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if value == "tag":
            return {}
        if not isinstance(value, dict) or len(value) != 1 or None in value.values():
            raise ValueError("expected tag, {mask: 4}, {hash: name} or {text: words}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The form that is written: `tag`, or an object with one key."""
        made = handler.resolve_ref_schema(handler(core))
        one = {name: form["anyOf"][0] for name, form in made["properties"].items()}
        written = {
            "type": "object",
            "properties": one,
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        return {"description": made["description"], "anyOf": [{"const": "tag"}, written]}


class RuleSpec(_Strict):
    """When a filter finds a category at or over a score, do an action.

    with: what a redaction puts in place.
    release: whether text waits for the filter (`hold`), or goes on while what the filter finds
        follows (`signal`): a block then comes late, and a redaction cannot be.
    roles: whose messages it reads, on input; all, if none is named.
    steer: for `revise`: what the model is told where it writes on, in one language or by language.
    place: where that stands: behind the last user message, or in the answer itself.
    tries: how often the answer is taken back for this rule, and `then`: what is done after that.
    views: of the text, that its filter reads for this rule; those of the filter, if left out.
    """

    id: Name
    when: When
    do: Literal["allow", "flag", "redact", "revise", "block"]
    with_: Annotated[With | None, Field(alias="with")] = None
    release: Literal["hold", "signal"] = "hold"
    steer: Annotated[dict[str, Note], WithJsonSchema(_SAY)] = Field(default_factory=dict)
    place: Literal["instruction", "assistant"] = "instruction"
    tries: Annotated[int, Field(ge=1, le=8)] = 2
    then: Literal["block", "redact", "flag"] = "block"
    roles: Annotated[tuple[Role, ...], WithJsonSchema(_one_or_many(_ROLE))] = ()
    views: Annotated[tuple[str, ...] | None, WithJsonSchema(_one_or_many(_VIEW))] = None
    say: Annotated[dict[str, str], WithJsonSchema(_SAY)] = Field(default_factory=dict)
    examples: Examples = Examples()

    @field_validator("roles", "views", mode="before")
    @classmethod
    def _listed(cls, value: Any, info: ValidationInfo) -> Any:
        return _texts(value, str(info.field_name))

    @field_validator("say", "steer", mode="before")
    @classmethod
    def _one_language(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"en": value}
        if value == {}:
            raise ValueError("in no language; leave it out, or give text, or language → text")
        for language in value if isinstance(value, dict) else ():
            if not regex.match(_LANGUAGE, str(language)):
                wrong = f"{quoted(language)} is no language: write a code, as en, fr or pt-BR"
                raise Misplaced(wrong, language)
        return value


class PolicySpec(_Strict):
    """A policy.

    history: what becomes of a message of an earlier turn that a rule blocks: the request is blocked
    (`block`), the message is cut there (`redact`), or it stays (`ignore`).
    """

    policy: Name
    mode: Literal["enforce", "monitor"] = "enforce"
    on_error: Literal["block", "allow"] = "block"
    hold: Hold = Hold()
    history: Literal["block", "redact", "ignore"] = "redact"
    filters: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    input: tuple[RuleSpec, ...] = ()
    output: tuple[RuleSpec, ...] = ()
    tools: tuple[RuleSpec, ...] = ()

    def rules(self) -> Iterator[tuple[str, int, RuleSpec]]:
        """Every rule, behind where it stands."""
        for part in ("input", "output", "tools"):
            for number, rule in enumerate(getattr(self, part)):
                yield part, number, rule

    @field_validator("input", "output", "tools", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("expected a list of rules")  # noqa: TRY004
        return tuple(value)


def _texts(value: Any, what: str, *, free: bool = False) -> tuple[str, ...]:
    """free: any text will do, a number in quotes as well."""
    listed = isinstance(value, list | tuple)
    texts = value if listed else [value]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            wrong = f"`{what}` takes text or a list of texts"
            wrong += f"; {COLON}" if isinstance(text, dict) else ""
            wrong = (no_text(text) if free else None) or wrong
            raise Misplaced(wrong, *((number,) if listed else ()))
    return tuple(texts)


def _score(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise Misplaced(f"`at` is a number from 0 to 1, not {quoted(value)}", "at")
    return float(value)
