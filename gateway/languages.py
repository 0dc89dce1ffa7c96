"""Which of a rule's languages a text is in, where nobody says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: Characters that are looked at: enough to tell, and soon done in a text of megabytes.
_ENOUGH: Final = 4000
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


def spoken(text: str, known: Sequence[str]) -> str:
    """The one of `known` that `text` is in, by its small words; else the first."""
    said = text[:_ENOUGH].lower()
    counts = {name: len(words.findall(said)) for name, words in _WORDS.items() if name in known}
    best = max(counts, key=counts.__getitem__, default=known[0])
    return best if counts.get(best) else known[0]
