"""Requests to translate, worded in English and in French, both ways, short sentences first."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from math import exp
from random import Random

from scripts.demo_model.conversation import Example, Language, Turn
from scripts.demo_model.copying import language
from scripts.demo_model.corpus import Pair

# By the target language. {x}: the sentence, quoted or not; {q}: quoted always.
_ASK: dict[Language, Sequence[str]] = {
    "fr": (
        *["Translate to French: {x}"] * 8,
        *["Traduis en français : {x}"] * 8,
        *["How do you say {q} in French?"] * 3,
        *["Translate into French: {x}"] * 3,
        *["Comment dit-on {q} en français ?"] * 2,
        "Translate {q} to French.",
        "Translate {q} into French",
        "Translate this sentence to French: {x}",
        "Translate the following to French: {x}",
        "Translate from English to French: {x}",
        "Please translate to French: {x}",
        "Can you translate this to French? {x}",
        "Say {q} in French.",
        "What is {q} in French?",
        "In French: {x}",
        "French: {x}",
        "{q} in French, please",
        "Traduisez en français : {x}",
        "Traduis cette phrase en français : {x}",
        "Traduis {q} en français.",
        "Traduis de l'anglais au français : {x}",
        "Peux-tu traduire en français : {x}",
        "Que veut dire {q} ?",
        "En français : {x}",
    ),
    "en": (
        *["Translate to English: {x}"] * 8,
        *["Traduis en anglais : {x}"] * 8,
        *["Comment dit-on {q} en anglais ?"] * 3,
        *["Translate into English: {x}"] * 3,
        *["How do you say {q} in English?"] * 2,
        "Translate {q} to English.",
        "Translate {q} into English",
        "Translate this sentence to English: {x}",
        "Translate the following to English: {x}",
        "Translate from French to English: {x}",
        "Please translate to English: {x}",
        "Can you translate this to English? {x}",
        "Say {q} in English.",
        "What does {q} mean?",
        "What does {q} mean in English?",
        "In English: {x}",
        "English: {x}",
        "{q} in English, please",
        "Traduisez en anglais : {x}",
        "Traduis cette phrase en anglais : {x}",
        "Traduis {q} en anglais.",
        "Traduis du français à l'anglais : {x}",
        "Peux-tu traduire en anglais : {x}",
        "Comment dire {q} en anglais ?",
        "En anglais : {x}",
    ),
}
_QUOTES = ("“{}”", "“{}”", '"{}"', "« {} »", "'{}'")
_PHRASES = 0.12  # share of the translations that come from the phrasebook
_PLAIN = 0.8  # share of {x} without quotation marks
_BARE = 0.12  # share of sentences asked without their final punctuation


class Translating:
    """Draws requests: now and then a phrase of everyday life, else a pair, in which case one of
    n English words comes up in proportion to exp(-n / `scale`)."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        phrases: Sequence[Pair] = (),
        *,
        scale: float = 3.5,
        longest: int = 11,
    ) -> None:
        self._phrases = phrases
        self._pairs = [p for p in pairs if len(p.en.split()) <= longest]
        self._sums = list(accumulate(exp(-len(p.en.split()) / scale) for p in self._pairs))

    def pair(self, rng: Random) -> Pair:
        """A pair to train on."""
        if self._phrases and rng.random() < _PHRASES:
            return rng.choice(self._phrases)
        return self._pairs[bisect(self._sums, rng.random() * self._sums[-1])]

    def example(self, rng: Random) -> Example:
        """A request for the translation of a pair, one way or the other."""
        pair, target = self.pair(rng), language(rng)
        source, answer = (pair.en, pair.fr) if target == "fr" else (pair.fr, pair.en)
        return Example("translate", (Turn(request(rng, target, source), answer),))


def request(rng: Random, target: Language, sentence: str) -> str:
    """Words that ask for `sentence` in the language `target`."""
    if rng.random() < _BARE and sentence[-1] in ".!":
        sentence = sentence.rstrip(".! ")
    if rng.random() < _BARE / 2:
        sentence = sentence[:1].lower() + sentence[1:]
    fitting = [q for q in _QUOTES if q[0] not in sentence and q[-1] not in sentence]
    quoted = rng.choice(fitting or _QUOTES[:1]).replace("{}", sentence)
    plain = sentence if rng.random() < _PLAIN else quoted
    asked = rng.choice(_ASK[target]).replace("{q}", quoted).replace("{x}", plain)
    return asked[:1].lower() + asked[1:] if rng.random() < 0.1 else asked
