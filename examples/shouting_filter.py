"""A filter of your own, in one file: it finds sentences in capitals.

gardefou serve --filter shouting=examples/shouting_filter.py:Shouting \\
    --policy examples/shouting.yaml
"""

from __future__ import annotations

from collections.abc import Sequence

from filters.errors import FilterConfigError
from filters.sentences import SentenceFilter
from filters.types import Context, Finding


class Shouting(SentenceFilter):
    """Reports `loud` for each sentence of at least `letters` letters, all of them capitals."""

    categories = frozenset({"loud"})

    def __init__(self, name: str, options: object) -> None:
        super().__init__(name)
        if not isinstance(options, int):
            raise FilterConfigError("expected the least number of letters")
        self.letters = options

    async def find(self, text: str, context: Context) -> Sequence[Finding]:  # noqa: ARG002
        letters = [character for character in text if character.isalpha()]
        if len(letters) < self.letters or not all(character.isupper() for character in letters):
            return []
        start = len(text) - len(text.lstrip())
        return [self.finding("loud", start, len(text))]
