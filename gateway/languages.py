"""Which of a rule's languages a client wants, or, where it does not say, which its text is in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: Characters that are looked at: enough to tell, and soon done in a text of megabytes.
_ENOUGH: Final = 4000
_WEIGHT: Final = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")
#: Small words that tell two languages apart.
_WORDS: Final = {
    "en": re.compile(
        r"\b(?:the|is|are|was|of|to|and|in|it|you|that|what|how|my|your|can|i|do|this|with|from|for"
        r"|not|all|an|about)\b"
    ),
    "fr": re.compile(
        r"\b(?:le|la|les|des|du|un|une|est|et|en|que|qui|vous|je|mon|votre|pour|de|tu|ton|ta|tes|mes"
        r"|ma|moi|ce|cette|dans|pas|ne|au|aux|sur|avec|toute?s?|comment|veux|suis|[cdjlmnst]|qu)\b"
    ),
}


def accepted(header: str) -> list[str]:
    """The tags of an `Accept-Language` (RFC 9110, section 12.5.4), those most wanted first.

    What is not wanted at all (`q=0`) is left out; a weight that is no number counts as none given.
    """
    weighed: list[tuple[float, str]] = []
    for part in header.lower().split(","):
        tag, _, weight = part.partition(";")
        given = _WEIGHT.fullmatch(weight.strip())
        if tag.strip():
            weighed.append((float(given[1]) if given else 1.0, tag.strip()))
    weighed.sort(key=lambda pair: -pair[0])
    return [tag for weight, tag in weighed if weight > 0]


def spoken(text: str, known: Sequence[str]) -> str:
    """The one of `known` that `text` is in, by its small words; else the first."""
    said = text[:_ENOUGH].lower()
    counts = {name: len(words.findall(said)) for name, words in _WORDS.items() if name in known}
    best = max(counts, key=counts.__getitem__, default=known[0])
    return best if counts.get(best) else known[0]
