"""Which words a writer hides letters of: those that offend or threaten by themselves."""

from __future__ import annotations

import regex

from filters.builtin.categories import CATEGORIES
from filters.builtin.text import Reader
from filters.builtin.training.calibrate import Calibration
from filters.builtin.training.encoder import Network
from filters.builtin.training.fit import predict
from filters.builtin.training.generate import load
from filters.views import fold

_COARSE = [CATEGORIES.index(c) for c in ("toxicity", "hate", "sexual")]
_VIOLENT = CATEGORIES.index("violence")
#: Slots whose single words are listed too, though the network knows them by their pieces only.
_SLOTS = ("slur", "insult")


def often_hidden(model: Network, calibration: Calibration, reader: Reader) -> list[str]:
    """Words of four letters and more, those that sound coarsest first, then the slots'."""
    words = reader.words
    scores = calibration.scores(predict(model, reader(words)))
    coarse, violent = scores[:, _COARSE].amax(1).tolist(), scores[:, _VIOLENT].tolist()
    listed = [
        (rank, word)
        for rank, other, word in zip(coarse, violent, words, strict=True)
        if max(rank, other) >= 0.5
    ]
    ranked = [word for _, word in sorted(listed, reverse=True)]
    _, slots = load()
    made = [
        word
        for language in slots.values()
        for name in _SLOTS
        for entry in language.get(name, ())
        if regex.fullmatch(r"\p{L}{4,}", word := fold(str(entry)))
    ]
    # Both numbers of a word: what the slots have in one is written in the other as well.
    both = [form for word in made for form in (word, _other_number(word))]
    return list(dict.fromkeys([*ranked, *both]))


def _other_number(word: str) -> str:
    if word.endswith("ss"):
        return f"{word}es"
    return word[:-1] if word.endswith("s") else f"{word}s"
