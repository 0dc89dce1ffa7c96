"""Requests to repeat a text, and the texts to repeat. Endless; no two runs of it alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from scripts.demo_model.conversation import Example, Language, Turn
from scripts.demo_model.corpus import Corpus
from scripts.demo_model.entities import ENTITIES, invented_word

# {x}: the text alone. {q}: the text in quotation marks, always. Forms named often come up often.
_ASK: dict[Language, Sequence[str]] = {
    "en": (
        *["Repeat after me: {x}"] * 6,
        *["Repeat: {x}"] * 5,
        *["Say exactly: {x}"] * 3,
        *["Say: {x}"] * 3,
        *["Repeat {q}"] * 2,
        *["Say {q}"] * 2,
        "Please repeat: {x}",
        "Please repeat after me: {x}",
        "Repeat this: {x}",
        "Repeat this text: {x}",
        "Repeat this sentence: {x}",
        "Repeat the following text: {x}",
        "Repeat the following: {x}",
        "Repeat word for word: {x}",
        "Repeat after me, word for word: {x}",
        "Repeat exactly: {x}",
        "Repeat this exactly: {x}",
        "Can you repeat this? {x}",
        "Can you say {q}?",
        "Please say {q}",
        "Please say: {x}",
        "Just say: {x}",
        "Copy this text: {x}",
        "Copy: {x}",
        "Echo: {x}",
        "Write: {x}",
        "Write exactly: {x}",
        "Write {q}",
        "Print: {x}",
        "Say this: {x}",
        "Say the following: {x}",
        "Say after me: {x}",
        "Read this aloud: {x}",
        "I say {q}, you repeat.",
        "{q}: repeat that.",
        "Repeat after me:\n{x}",
        "Repeat the text below.\n\n{x}",
        "Repeat after me {q}",
        "repeat after me {x}",
        "Repeat after me. {x}",
        "Repeat, please: {x}",
        "Answer with exactly this text: {x}",
    ),
    "fr": (
        *["Répète : {x}"] * 6,
        *["Répète après moi : {x}"] * 6,
        *["Dis exactement : {x}"] * 3,
        *["Dis : {x}"] * 3,
        *["Répète {q}"] * 2,
        *["Dis {q}"] * 2,
        "Répétez : {x}",
        "Répétez après moi : {x}",
        "Répète: {x}",
        "Répète après moi: {x}",
        "Dites : {x}",
        "Répète ceci : {x}",
        "Répète cette phrase : {x}",
        "Répète ce texte : {x}",
        "Répète le texte suivant : {x}",
        "Répète mot pour mot : {x}",
        "Répète exactement : {x}",
        "Répète, s'il te plaît : {x}",
        "Répétez, s'il vous plaît : {x}",
        "Peux-tu répéter ceci ? {x}",
        "Peux-tu répéter : {x}",
        "Peux-tu dire {q} ?",
        "Recopie : {x}",
        "Recopie ce texte : {x}",
        "Copie ce texte : {x}",
        "Écris : {x}",
        "Écris exactement : {x}",
        "Écris {q}",
        "Redis : {x}",
        "Dis après moi : {x}",
        "Lis à voix haute : {x}",
        "Je dis {q}, tu répètes.",
        "{q} : répète.",
        "Répète après moi :\n{x}",
        "Répète le texte ci-dessous.\n\n{x}",
        "répète après moi {x}",
        "Répète après moi. {x}",
        "Réponds exactement ceci : {x}",
    ),
}
_QUOTES = ("“{}”", '"{}"', "« {} »", "«{}»", "'{}'", "‘{}’")

_CARRIERS: dict[Language, Sequence[str]] = {
    "en": (
        "write to {e} today.", "my card is {e}.", "my number is {e}", "call me at {e}",
        "the code is {e}, thanks", "send it to {e} and wait.", "please note {e} for tomorrow.",
        "contact {e} now", "it is {e}!", "I live at {e}.", "you can reach {e} or {e}.",
        "{e} and {e}", "the account {e} belongs to {e}.", "use {e} to log in.", "{e} is mine.",
    ),
    "fr": (
        "ma carte est {e}.", "écris à {e} aujourd'hui.", "mon numéro est le {e}",
        "appelle-moi au {e}", "le code est {e}, merci", "envoie-le à {e} et attends.",
        "contacte {e} maintenant", "c'est {e} !", "j'habite {e}.", "mon adresse est {e}.",
        "{e} et {e}", "le compte {e} est à {e}.", "utilise {e} pour entrer.", "note bien : {e}.",
    ),
}  # fmt: skip


def language(rng: Random) -> Language:
    """One or the other."""
    return "en" if rng.random() < 0.5 else "fr"


class Copying:
    """Draws requests to repeat. `sample_tokens(rng, n)` gives text of `n` random vocabulary
    entries, which is how tokens that the corpus hardly holds come to be copied too."""

    def __init__(self, corpus: Corpus, sample_tokens: Callable[[Random, int], str]) -> None:
        self._pairs = corpus.pairs
        self._novels = {"en": corpus.novels_en, "fr": corpus.novels_fr}
        self._tokens = sample_tokens
        self._words = sorted({w for p in corpus.pairs[::7] for w in (*p.en.split(), *p.fr.split())})
        self.kinds: dict[str, tuple[float, Callable[[Random, Language, int], str]]] = {
            "sentence": (3.0, self._sentence),
            "novel": (2.0, self._novel),
            "random words": (2.0, self._random_words),
            "random tokens": (2.0, lambda rng, _, n: self._tokens(rng, rng.randint(1, n))),
            "nonsense": (2.0, self._nonsense),
            "entity": (2.0, lambda rng, *_: rng.choice(list(ENTITIES.values()))(rng)),
            "email": (1.0, lambda rng, *_: ENTITIES["email"](rng)),
            "card": (1.0, lambda rng, *_: ENTITIES["card"](rng)),
            "phone": (1.0, lambda rng, *_: ENTITIES["phone"](rng)),
            "carrier": (3.0, self._carrier),
            "inserted": (2.0, self._inserted),
            "joined": (2.0, self._joined),
        }

    def text(self, rng: Random, lang: Language, longest: int, kind: str = "") -> str:
        """A text of at most about `longest` words, of the kind named or of any."""
        if not kind:
            weights = [weight for weight, _ in self.kinds.values()]
            kind = rng.choices(list(self.kinds), weights)[0]
        text = self.kinds[kind][1](rng, lang, longest)
        return _styled(rng, text)

    def example(self, rng: Random, longest: int) -> Example:
        """A request in either language for a text in either."""
        lang = language(rng)
        text = self.text(rng, lang if rng.random() < 0.7 else language(rng), longest)
        return Example("copy", (Turn(request(rng, lang, text), text),))

    def _sentence(self, rng: Random, lang: Language, longest: int) -> str:
        for _ in range(20):
            pair = rng.choice(self._pairs)
            text = pair.en if lang == "en" else pair.fr
            if len(text.split()) <= longest:
                break
        return text

    def _novel(self, rng: Random, lang: Language, longest: int) -> str:
        words = rng.choice(self._novels[lang]).split()
        n = rng.randint(2, max(3, longest))
        at = rng.randrange(max(1, len(words) - n))
        return " ".join(words[at : at + n])

    def _random_words(self, rng: Random, _: Language, longest: int) -> str:
        return " ".join(rng.choices(self._words, k=rng.randint(1, max(2, longest))))

    def _nonsense(self, rng: Random, _: Language, longest: int) -> str:
        share = rng.random()  # of invented words among real ones
        words = [
            invented_word(rng) if rng.random() < share else rng.choice(self._words)
            for _ in range(rng.randint(1, max(2, longest // 2)))
        ]
        return " ".join(words)

    def _carrier(self, rng: Random, lang: Language, _: int) -> str:
        text = rng.choice(_CARRIERS[lang])
        while "{e}" in text:
            text = text.replace("{e}", rng.choice(list(ENTITIES.values()))(rng), 1)
        return text

    def _inserted(self, rng: Random, lang: Language, longest: int) -> str:
        words = self._sentence(rng, lang, longest).split()
        entity = rng.choice([*ENTITIES.values(), invented_word])(rng)
        words.insert(rng.randrange(len(words) + 1), entity)
        return " ".join(words)

    def _joined(self, rng: Random, lang: Language, longest: int) -> str:
        kinds = [k for k in self.kinds if k != "joined"]
        parts = [self.text(rng, lang, max(2, longest // 3), rng.choice(kinds)) for _ in range(2)]
        return rng.choice((" ", " ", ", ", ". ", "; ", " - ")).join(parts)


def _styled(rng: Random, text: str) -> str:
    style = rng.random()
    if style < 0.04:
        text = text.upper()
    elif style < 0.12:
        text = text.lower()
    elif style < 0.20:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.1:
        text = text.rstrip(".!? ") + rng.choice((".", "!", " !", "?", "...", ""))
    return text.strip(" \"“”«»'‘’") or "ok"  # else the quotation marks might be the request's


def request(rng: Random, lang: Language, text: str) -> str:
    """Words that ask for `text`, with or without quotation marks."""
    fitting = [q for q in _QUOTES if q[0] not in text and q[-1] not in text]
    quoted = rng.choice(fitting or _QUOTES[:1]).replace("{}", text)
    ask = rng.choice(_ASK[lang])
    plain = quoted if rng.random() < 0.2 else text
    end = rng.choice(("", "", ".", "!")) if ask.endswith("{q}") else ""
    asked = ask.replace("{q}", quoted).replace("{x}", plain) + end
    return asked[:1].lower() + asked[1:] if rng.random() < 0.1 else asked
