"""Walks a client's types and fills each string that they can carry, one at a time."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import TypeIs, get_type_hints, is_typeddict

Filled = tuple[str, Any]
_LEAVES = (str, object, Any)


def fills(kind: Any, text: str, within: tuple[Any, ...] = ()) -> Iterator[Filled]:
    """Every value of type `kind` in which one string, or one key, is `text`, and the place of it.

    All else is left out, or is the least that the type asks for. A type inside itself is not
    entered a second time.
    """
    kind = _bare(kind)
    origin, args = get_origin(kind), get_args(kind)
    if kind in _LEAVES:
        yield "", text
        if kind is not str:
            yield ".deep", {"deep": text}
            yield ".key", {text: 1}
    elif _is_object(kind):
        if kind not in within:
            yield from _fields(kind, text, (*within, kind))
    elif origin in {Union, types.UnionType}:
        for branch in args:
            yield from fills(branch, text, within)
    elif origin is dict:
        yield ".key", {text: least(args[1])}
        for place, value in fills(args[1], text, within):
            yield f".key{place}", {"key": value}
    elif _is_list(kind):
        for place, value in fills(args[0], text, within):
            yield f"[0]{place}", [value]


def least(kind: Any) -> Any:
    """The least value of that type."""
    kind = _bare(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return args[0]
    if origin in {Union, types.UnionType}:
        return None if type(None) in args else least(args[0])
    if _is_object(kind):
        return {
            name: least(hint) for name, hint in _hints(kind).items() if _is_required(kind, name)
        }
    if origin is dict:
        return {}
    if _is_list(kind):
        return []
    scalars: dict[Any, Any] = {int: 1, float: 1.0, bool: False, type(None): None}
    return scalars.get(kind, "x")


def _fields(kind: Any, text: str, within: tuple[Any, ...]) -> Iterator[Filled]:
    rest = least(kind)
    for name, hint in _hints(kind).items():
        for place, value in fills(hint, text, within):
            yield f".{name}{place}", rest | {name: value}


def _is_object(kind: Any) -> bool:
    model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return model or bool(is_typeddict(kind))


def _hints(kind: Any) -> dict[str, Any]:
    """Fields by their names on the wire."""
    if not is_typeddict(kind):
        return {
            field.alias or name: Annotated[field.annotation, field]
            for name, field in kind.model_fields.items()
        }
    hints = get_type_hints(kind, include_extras=True)
    return {_alias(hint) or name: hint for name, hint in hints.items()}


def _alias(hint: Any) -> str | None:
    """The name on the wire, where the client says one."""
    for extra in getattr(hint, "__metadata__", ()):
        if alias := getattr(extra, "alias", None):
            return str(alias)
    return None


def _bare(kind: Any) -> Any:
    while get_origin(kind) in {Annotated, Required, NotRequired}:
        kind = get_args(kind)[0]
    return kind


def _is_required(kind: Any, name: str) -> bool:
    if not is_typeddict(kind):
        fields = kind.model_fields.items()
        found = next(field for key, field in fields if name in {key, field.alias})
        return bool(found.is_required())
    # `__required_keys__` cannot see into annotations that are kept as text.
    hint, total = _hints(kind)[name], kind.__total__
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is Required or (total and get_origin(hint) is not NotRequired)


def _is_list(kind: Any) -> TypeIs[Any]:
    origin = get_origin(kind)
    if origin is None or origin in {Literal, dict, IO, os.PathLike}:
        return False
    return len(get_args(kind)) == 1
