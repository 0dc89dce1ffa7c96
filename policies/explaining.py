"""What is wrong with a policy's form, as sentences for those who write it."""

from __future__ import annotations

from typing import Any

from filters.errors import no_text, quoted
from policies.links import meant
from policies.schema import PolicySpec, RuleSpec, With


def explained(error: Any) -> tuple[tuple[str | int, ...], str]:
    """The place and a sentence for one of pydantic's errors."""
    path = tuple(error["loc"])
    match error["type"]:
        case "extra_forbidden" if path[-1] == "<<":
            return path, "YAML 1.2 merges nothing with `<<`; write out what it stands for"
        case "extra_forbidden":
            return path, f"unknown key {path[-1]!r}{meant(str(path[-1]), _keys_at(path))}"
        case "missing":
            return path, f"`{path[-1]}` is missing"
        case "literal_error":
            close = meant(str(error["input"]), error["ctx"]["expected"].split("'")[1::2])
            return path, f"{error['input']!r} is none of {error['ctx']['expected']}{close}"
        case "string_pattern_mismatch":
            return path, f"{error['input']!r}: names are lower-case letters, digits, - _ and ."
        case "model_type":
            return path, "expected a mapping"
        case "dict_type":
            return path, _mapping_at(path)
        case "value_error":
            inner = error["ctx"]["error"]
            return (*path, *getattr(inner, "path", ())), str(inner)
    return path, _value_told(error, path)


def _mapping_at(path: tuple[str | int, ...]) -> str:
    if path[0] == "filters":
        return "expected {kind: options}" if path[1:] else "expected {name: {kind: options}}"
    return f"`{path[-1]}` takes text, or language → text"


def _value_told(error: Any, path: tuple[str | int, ...]) -> str:
    """A sentence for a value that is not what its key takes."""
    key, given, more = path[-1], error["input"], error.get("ctx", {})
    if path[-2:-1] == ("steer",):  # a note in one language
        key = "steer"
    match error["type"]:
        case "string_type":
            return no_text(given) or "expected text"
        case "string_too_short":
            return f"`{key}` is empty"
        case "string_too_long":
            return f"`{key}` has at most {more['max_length']} characters"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return f"`{key}` is a whole number, not {quoted(given)}"
        case "greater_than_equal":
            return f"`{key}` is at least {more['ge']}, not {quoted(given)}"
        case "less_than_equal":
            return f"`{key}` is at most {more['le']}, not {quoted(given)}"
    return str(error["msg"])


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    if len(path) == 1:
        return [field.alias or name for name, field in PolicySpec.model_fields.items()]
    if path[0] == "hold":
        return list(PolicySpec.model_fields["hold"].annotation.model_fields)  # type: ignore[union-attr]
    if path[-2] == "examples":
        return ["hit", "pass"]
    if path[-2] == "with":
        return list(With.model_fields)
    return [field.alias or name for name, field in RuleSpec.model_fields.items()]
