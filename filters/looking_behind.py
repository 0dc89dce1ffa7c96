"""Repeats inside look-behinds, made lazy: else `regex` invents partial matches.

`(?<=pelles? )\\d` does not match at the 0 of `elles 02`, nor can it ever: what is before is known.
With `partial=True` the library says that it could, where a greedy repeat in a look-behind gives
back. To a look-behind it is the same which of its ways is tried first; lazy ones are tried right.
"""

from __future__ import annotations

import regex

_TOKENS = regex.compile(
    r"\\(?s:.)|\[\^?\]?(?:\\(?s:.)|\[:\^?\w+:\]|[^\]\\])*\]"
    r"|\((?:\?(?:<?[=!]|>|P?<\w+>|P=\w+|[a-zA-Z-]*:))?|\)|(?:[?*+]|\{\d*,\d*\})[?+]?|(?s:.)"
)
_REPEAT = regex.compile(r"(?:[?*+]|\{\d*,\d*\})(?P<how>[?+]?)")


def lazy_behind(source: str) -> str:
    """`source`, with greedy repeats in its look-behinds made lazy.

    Not those in what is atomic or possessive, or has a name: there the first way is the only one,
    or is remembered.
    """
    parts = _TOKENS.findall(source)
    out: list[str] = []
    # Of each open group: what opens it, and where it begins in `parts` and in `out`.
    groups: list[tuple[str, int, int]] = []
    behind = 0
    for at, part in enumerate(parts):
        repeat = _REPEAT.fullmatch(part)
        if part[0] == "(":
            groups.append((part, at, len(out)))
            behind += part in {"(?<=", "(?<!"}
        elif part == ")" and groups:
            opening, begin, made = groups.pop()
            behind -= opening in {"(?<=", "(?<!"}
            following = _REPEAT.fullmatch(parts[at + 1]) if at + 1 < len(parts) else None
            possessive = following is not None and following["how"] == "+"
            if possessive or opening in {"(", "(?>"} or opening.endswith(">"):
                out[made:] = parts[begin:at]
        out.append(f"{part}?" if behind and repeat and not repeat["how"] else part)
    return "".join(out)
