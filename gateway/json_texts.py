"""The texts inside JSON text: what its strings and numbers say once escapes are undone."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

Screened = Callable[[str], Awaitable[str]]


async def screened_json(text: str, released: str, screened: Screened) -> str:
    """JSON `text` with every string (keys too) and number in it put through `screened`.

    An escaped secret (`jean\\u0040example.org`) does not show in the text itself, and a redaction
    there may cut an escape in two. What results is screened as a text once more.
    released: `text` as its own screen released it; returned where `text` is no JSON (then nobody
    will read strings out of it), or where what results would not pass.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return released
    new = await _walk(value, screened)
    if new == value and released == text:
        return text
    written = json.dumps(new, ensure_ascii=False)
    return written if await screened(written) == written else released


async def _walk(value: Any, screened: Screened) -> Any:
    if isinstance(value, str):
        return await screened(value) if value else value
    if isinstance(value, list):
        return [await _walk(one, screened) for one in value]
    if isinstance(value, dict):
        return {await screened(k): await _walk(v, screened) for k, v in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        digits = json.dumps(value)
        shown = await screened(digits)
        return value if shown == digits else shown
    return value
