"""Changes of style that leave the meaning: none of them tells harmful from harmless."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import regex

_WORDS = regex.compile(r"\p{L}+")
_LEET = str.maketrans("aeiost", "4310$7")


def typo(text: str, chance: random.Random) -> str:
    """One slip in a longer word: two letters swapped, one dropped or doubled."""
    words = [match for match in _WORDS.finditer(text) if len(match[0]) > 4]
    if not words:
        return text
    match = chance.choice(words)
    at = match.start() + chance.randrange(1, len(match[0]) - 2)
    slip = chance.choice((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
    return text[:at] + slip + text[at + 2 :]


def disguise(text: str, chance: random.Random) -> str:
    """Some words with digits for letters, spelled out, drawn out or with a letter hidden."""

    def change(match: regex.Match[str]) -> str:
        word: str = match[0]
        if len(word) < 4 or chance.random() < 0.6:
            return word
        at = chance.randrange(1, len(word) - 1)
        return chance.choice(
            (
                word.translate(_LEET),
                ".".join(word),
                word[:at] + word[at] * 4 + word[at + 1 :],
                word[:at] + word[at] * 2 + word[at + 1 :],
                word[:at] + "*" + word[at + 1 :],
                word[:at] + " " + word[at:],
            )
        )

    return _WORDS.sub(change, text)


def plain(text: str) -> str:
    """Without punctuation."""
    return " ".join(regex.sub(r"[^\p{L}\p{N}'’@$*]+", " ", text).split())


def among(text: str, around: Sequence[str], chance: random.Random) -> str:
    """Between harmless sentences of the same language, up to two on a side of a short text."""
    most = 2 if len(text) < 160 else 1
    before, after = (" ".join(chance.choices(around, k=chance.randint(1, most))) for _ in "12")
    return chance.choice((f"{before} {text}", f"{text} {after}", f"{before} {text} {after}"))


def half_translated(
    text: str, words: Mapping[str, str], chance: random.Random, *, share: float = 0.8
) -> str:
    """With `share` of the words that `words` translates replaced (Qin et al. 2020, CoSDA-ML)."""

    def change(match: regex.Match[str]) -> str:
        other = words.get(match[0].lower())
        return other if other and chance.random() < share else match[0]

    return _WORDS.sub(change, text)


def restyle(text: str, around: Sequence[str], chance: random.Random) -> str:
    """One change, or none: none in nearly half of all cases."""
    dice = chance.random()
    if dice < 0.14:
        return typo(text, chance)
    if dice < 0.28:
        return disguise(text, chance)
    if dice < 0.38:
        return plain(text)
    if dice < 0.53 and len(text) < 300 and around:
        return among(text, around, chance)
    return text
