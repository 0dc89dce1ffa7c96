"""The texts inside JSON text: what its strings and numbers say once escapes are undone."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

Screened = Callable[[str], Awaitable[str]]

#: JSON text in a string of JSON text, so often; what lies deeper is screened as text alone.
DEEPEST = 4
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|([/"\\bfnrt]))')
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
#: Digits that Python makes a number of; other readers take more.
_MOST_DIGITS = 4300


class _Repeated(dict[str, Any]):
    """An object that gives a key twice. Who reads it may take either value."""


def canonical(text: str) -> str:
    """JSON `text` without escapes that need not be, and each key once; other text as it is.

    What a model reads and what filters see are the same then.
    """
    try:
        value = _loads(text)
        return _dumps(value) if "\\" in text or _repeats(value) else text
    except (ValueError, RecursionError):
        return text


async def screened_json(text: str, released: str, screened: Screened) -> str:
    """JSON `text` with every string (keys too) and number in it put through `screened`.

    An escaped secret (`jean\\u0040example.org`) does not show in the text itself, and a redaction
    there may cut an escape in two. JSON text in a string is read too, the strings of a list also as
    one, and of a key that is given twice the last value counts and stays. What results, written as
    clients write it that have read it, is screened as a text once more, and leaves if either
    changed anything.
    released: `text` as its own screen released it. Where `text` is no JSON (cut short, say: some
        clients read that too), `released` with its escapes undone is screened, and is returned
        without them if that changes anything.
    """
    return await _screened(text, released, screened, 0)


async def _screened(text: str, released: str, screened: Screened, depth: int) -> str:
    try:
        value = _loads(text)
    except (ValueError, RecursionError):
        for plain in _plainer(released):
            if (shown := await screened(plain)) != plain:
                return shown
        return released
    new = await _walk(value, screened, depth)
    written = _dumps(new)
    shown = written if written == text == released else await screened(written)
    if new == value and released == text and shown == written and not _repeats(value):
        return text
    return shown


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_int=_int)


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Repeated(made)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _repeats(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value, _Repeated) or any(map(_repeats, value.values()))
    return isinstance(value, list) and any(map(_repeats, value))


def _plainer(text: str) -> Iterator[str]:
    """`text` with its escapes undone, then with those that are left, as often as strings nest."""
    for _ in range(DEEPEST):
        plain = _ESCAPE.sub(_unescaped, text)
        plain = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if plain == text:
            return
        yield plain
        text = plain


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _LETTERS.get(match[2], match[2])


async def _walk(value: Any, screened: Screened, depth: int) -> Any:
    if isinstance(value, str):
        return await _string(value, screened, depth) if value else value
    if isinstance(value, list):
        return await _list([await _walk(one, screened, depth) for one in value], screened)
    if isinstance(value, dict):
        return {await screened(k): await _walk(v, screened, depth) for k, v in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Who reads 4.0e3 may write 4000.
        whole = isinstance(value, float) and value.is_integer()
        digits = str(int(value)) if whole else json.dumps(value)
        shown = await screened(digits)
        return value if shown == digits else shown
    return value


async def _string(value: str, screened: Screened, depth: int) -> str:
    shown = await screened(value)
    if depth < DEEPEST and value.lstrip()[:1] in ("{", "["):
        return await _screened(value, shown, screened, depth + 1)
    return shown


async def _list(values: list[Any], screened: Screened) -> list[Any]:
    """A secret that is split over a list's strings is cut out of all of them together."""
    if len(values) < 2 or not all(isinstance(one, str) for one in values):
        return values
    joined = "".join(values)
    shown = await screened(joined)
    return values if shown == joined else [shown]
