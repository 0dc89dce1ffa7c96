"""A filter of your own, in one file: it finds sentences in capitals.

gardefou serve --filter shouting=examples/shouting_filter.py:Shouting \\
    --policy examples/shouting.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from filters.errors import FilterConfigError
from filters.sentences import SentenceFilter
from filters.types import Context, Finding


class Shouting(SentenceFilter):
    """Reports `shouting` for each sentence of at least `least` letters, all of them capitals."""

    categories = frozenset({"shouting"})

    def __init__(self, name: str, options: object) -> None:
        super().__init__(name)
        least = options.get("least") if isinstance(options, Mapping) else None
        if not isinstance(least, int):
            raise FilterConfigError("expected {least: NUMBER}, of letters")
        self.least = least

    async def find(self, text: str, context: Context) -> Sequence[Finding]:  # noqa: ARG002
        letters = [character for character in text if character.isalpha()]
        if len(letters) < self.least or not all(character.isupper() for character in letters):
            return []
        start = len(text) - len(text.lstrip())  # a window begins with the blank before it
        return [self.finding("shouting", start, len(text))]
