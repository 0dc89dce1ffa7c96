"""What the built-in classifier reads: text folded as in the view `fold`, œ kept, as word pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import regex
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

from filters.views import fold

_K = TypeVar("_K")

_LEET = r"0134578@$!"
_SPELLED = regex.compile(
    rf"(?<![\p{{L}}\p{{N}}])[\p{{L}}{_LEET}](?P<s>[ .\-_*/|~·•])[\p{{L}}{_LEET}]"
    rf"(?:(?P=s)[\p{{L}}{_LEET}]){{1,40}}(?![\p{{L}}\p{{N}}])"
)
_WORD = regex.compile(rf"[\p{{L}}*{_LEET}]*\p{{L}}[\p{{L}}*{_LEET}]*")
_SIGNS = "@#%&$_-"
_STARS = str.maketrans(dict.fromkeys(_SIGNS, "*"))
# Bounded, far above the longest word that is looked up: linear in the text, whatever it holds.
_MASKED = regex.compile(
    rf"(?<![\p{{L}}\p{{N}}])\p{{L}}[\p{{L}}*]{{0,30}}[{_SIGNS}][\p{{L}}*{_SIGNS}]{{0,30}}\p{{L}}"
    r"(?![\p{L}\p{N}])"
)
_RUN = regex.compile(r"(\p{L})\1*")
_DRAWN_OUT = regex.compile(r"(\p{L})\1")
#: Letters of a word that is looked up by those that are not hidden or not doubled: shorter ones
#: are like too many others.
_LEAST = 4
#: Words of a text at most whose hidden letters are looked up; each takes a fraction of a ms.
_HIDDEN = 64
_DISGUISED = regex.compile(rf"[{_LEET}]\p{{L}}")
_AS_LETTERS = (
    str.maketrans(_LEET, "oieastbasi"),
    str.maketrans(_LEET, "oleastbasl"),
)


class Reader:
    """Turns texts into token ids.

    vocabulary: word pieces by their id; the first four are padding, unknown, start and end.
    longest: ids that a text gets at most. often_hidden: words whose letters writers hide, in the
    order in which they are thought of (`sh*t` is not `shot`); known or not.
    """

    START, END = 2, 3
    SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    def __init__(
        self, vocabulary: Sequence[str], *, longest: int = 256, often_hidden: Sequence[str] = ()
    ) -> None:
        self.vocabulary = vocabulary
        self._known = {word: place for place, word in enumerate(vocabulary)}
        model: Any = WordPiece(self._known, unk_token="[UNK]", max_input_chars_per_word=64)  # noqa: S106
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._longest = longest
        #: Words whose hidden or doubled letters are looked up, the most frequent first.
        self.words = [w for w in vocabulary if w.isalpha() and len(w) >= _LEAST]
        self._often_hidden = _grouped(often_hidden, len)
        self._by_length = _grouped(dict.fromkeys([*often_hidden, *self.words]), len)
        self._by_letters = _grouped(self.words, lambda word: _RUN.sub(r"\1", word))

    @classmethod
    def from_file(cls, path: Path, *, longest: int = 256) -> Reader:
        """path: one word piece a line; beside it `often_hidden.txt`, if there is one."""
        vocabulary = path.read_text(encoding="utf-8").split("\n")
        hidden = path.with_name("often_hidden.txt")
        words = hidden.read_text(encoding="utf-8").split() if hidden.exists() else []
        return cls(vocabulary, longest=longest, often_hidden=words)

    def __call__(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, between start and end."""
        clean = [self.clean(text) for text in texts]
        return [
            [self.START, *encoded.ids[: self._longest - 2], self.END]
            for encoded in self._tokenizer.encode_batch(clean, add_special_tokens=False)
        ]

    def clean(self, text: str) -> str:
        """Fold, then undo disguises of single words where what comes out is a word we know.

        Spelled (`i d i o t`), with digits or signs for letters (`1d!ot`), drawn out (`idioooot`,
        `iddiot`), with letters hidden (`id*ot`; by other signs, `f#ck`, only of words often so).
        """
        text = _SPELLED.sub(lambda m: self._plain(m[0].replace(m["s"], "")) or m[0], fold(text))
        left = _HIDDEN

        def masked(match: regex.Match[str]) -> str:
            nonlocal left
            left -= 1
            found = left >= 0 and _fitting(match[0].translate(_STARS), self._often_hidden)
            return found or match[0]

        def known(match: regex.Match[str]) -> str:
            nonlocal left
            word: str = match[0]
            if "*" not in word:
                return self._plain(word) or word
            left -= 1
            return (left >= 0 and self._uncovered(word)) or word

        return _WORD.sub(known, _MASKED.sub(masked, text))

    def _uncovered(self, word: str) -> str | None:
        """The word that has these letters: one that is often hidden, or else the most frequent."""
        core = word.strip("*")
        before, behind = word.partition(core)[::2]
        for shape in dict.fromkeys((word, core)):
            if known := _fitting(shape, self._by_length):
                return known if shape == word else before + known + behind
        return None

    def _plain(self, word: str) -> str | None:
        """The known word that `word` is or disguises, or None."""
        core = word.rstrip("!")
        forms = [core]
        if _DISGUISED.search(core):
            forms += [core.translate(table) for table in _AS_LETTERS]
        for form in forms:
            if len(form) > 2 and form in self._known:
                return form + word[len(core) :]
        for form in forms:
            if _DRAWN_OUT.search(form) and (found := self._shortened(form)):
                return found + word[len(core) :]
        return None

    def _shortened(self, word: str) -> str | None:
        """The longest known word of the same letters, none of them repeated more often."""
        runs = [len(run[0]) for run in _RUN.finditer(word)]
        fitting = [
            known
            for known in self._by_letters.get(_RUN.sub(r"\1", word), ())
            if all(
                len(run[0]) <= most for run, most in zip(_RUN.finditer(known), runs, strict=True)
            )
        ]
        return max(fitting, key=len, default=None)


def _grouped(words: Iterable[str], key: Callable[[str], _K]) -> Mapping[_K, Sequence[str]]:
    groups: dict[_K, list[str]] = {}
    for word in words:
        groups.setdefault(key(word), []).append(word)
    return groups


def _fitting(shape: str, by_length: Mapping[int, Sequence[str]]) -> str | None:
    """The first word that has a letter for each star, of which at most half may be stars."""
    if len(shape) < _LEAST or not 0 < shape.count("*") <= len(shape) // 2:
        return None
    pattern = regex.compile(regex.escape(shape).replace(r"\*", "."))
    return next(filter(pattern.fullmatch, by_length.get(len(shape), ())), None)
