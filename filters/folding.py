"""Text folded for comparing words, as it grows, with the way back; and where words end.

Folded: case-folded in full (ß is ss, İ is i and a dot), typographic apostrophes and hyphens made
plain, and a run of white space made one space. Where a run is longer than `SPACES`, a line break
follows the space, and no phrase goes on.

A word ends where a letter or digit meets anything else, so that `l'arme` and `dog's` hold the words
`arme` and `dog`. Three things are not like that:

- a hyphen between letters joins: `rendez-vous` and `cul-de-sac` are words of their own, in which
  neither `rendez` nor `cul` is found. French pronouns and particles behind a hyphen are words of
  their own all the same (`prends-la`, `ce con-là`, `arme-t-il`); `rendez-vous` is not one of these;
- in scripts that put no spaces between words (Han, kana, Thai, Lao, Khmer, Myanmar, Tibetan) a word
  may end anywhere;
- nothing ends before a combining mark.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

import regex

#: White space between two words of a phrase: at most so many characters.
SPACES = 8
#: Characters before a place that `ends` may have to see.
BEHIND = 8

SOLO = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ーｰ"
_SOLO = regex.compile(rf"[{SOLO}]")
_WORD = regex.compile(r"[\w\p{M}]")
_MARK = regex.compile(r"\p{M}")
_TOKENS = regex.compile(r"(\s+)|\S+")
#: Apostrophes and hyphens as they are printed, for each that is typed.
PRINTED = {"'": "‘’ʼ＇", "-": "‐‑－"}
_ODD = regex.compile(rf"[^\S ]|\s\s|[{''.join(PRINTED.values())}]")
_PLAIN = str.maketrans({each: typed for typed, every in PRINTED.items() for each in every})
_TAIL = regex.compile(r"(?:t-(?=\p{L}|\Z))?\p{L}{0,6}+")
_CLITIC = regex.compile(
    "je|tu|on|nous|vous|ce|moi|toi|lui|leur|eux|le|la|les|en|ci|là|(?:t-)?(?:ils?|elles?|on|y|en)"
)
OTHER, LETTER, ALONE = 0, 1, 2


class Folded:
    """One text that grows.

    text: the folded text from offset `base` on. length: of the original. stretch: a run of one
    letter is folded to one, and `runs` tells how long each was.
    """

    def __init__(self, *, stretch: bool = False) -> None:
        self.text = ""
        self.base = 0
        self.length = 0
        self.runs: list[int] = []
        self._stretch = stretch
        self._space = 0  # white space that the text ends with
        # Where the way back jumps: from this folded offset on, the original one is this.
        self._folded = [0]
        self._original = [0]

    @property
    def end(self) -> int:
        """The folded text's length."""
        return self.base + len(self.text)

    def feed(self, piece: str) -> str:
        """Add a piece; return what the folded text grew by."""
        before = len(self.text)
        folded = piece.casefold()
        doubled = bool(self._space) and piece[:1] == " "
        simple = piece.isascii() and piece.isprintable() and "  " not in piece
        if (
            self._stretch
            or doubled
            or not (simple or (len(folded) == len(piece) and not _ODD.search(piece)))
        ):
            for token in _TOKENS.finditer(piece):
                if token[1]:
                    self._add_space(len(token[0]))
                else:
                    self._add(token[0])
        elif piece:
            if self.length - self._original[-1] != self.base + len(self.text) - self._folded[-1]:
                self._mark(self.length)
            self.text += folded
            self.length += len(piece)
            self._space = int(piece[-1] == " ")
            return folded
        return self.text[before:]

    def original(self, at: int) -> int:
        """The original offset at which the folded character `at` begins."""
        if at >= self.base + len(self.text):
            return self.length
        if at >= self._folded[-1]:
            return self._original[-1] + at - self._folded[-1]
        jump = bisect_right(self._folded, at) - 1
        return self._original[jump] + at - self._folded[jump]

    def forget(self, until: int) -> None:
        """Let go of what stands before the folded offset `until`."""
        if until > self.base:
            self.text = self.text[until - self.base :]
            del self.runs[: until - self.base]
            self.base = until
            jump = bisect_right(self._folded, until) - 1
            del self._folded[:jump], self._original[:jump]

    def ends(self, at: int, *, final: bool) -> bool | None:
        """Whether a word may end or begin at the folded offset `at`; None: not yet known."""
        text, i = self.text, at - self.base
        if at == 0:
            return True
        if i >= len(text):
            return True if final else None
        left, right = kind(text[i - 1]), kind(text[i])
        if left and right:
            return ALONE in (left, right) and not _MARK.match(text[i])
        if text[i] == "-" and left == LETTER:
            return self._hyphen(i, final=final)
        if text[i - 1] == "-" and right == LETTER:
            return self._hyphen(i - 1, final=final)
        return True

    def _hyphen(self, i: int, *, final: bool) -> bool | None:
        text = self.text
        if i == 0 or kind(text[i - 1]) != LETTER:
            return True
        if i + 1 >= len(text):
            return True if final else None
        if kind(text[i + 1]) != LETTER:
            return True
        tail = _TAIL.match(text, i + 1)
        assert tail is not None  # noqa: S101  (it may match nothing)
        if tail.end() >= len(text) and not final:
            return None
        if tail.end() < len(text) and kind(text[tail.end()]):
            return False
        if tail[0] == "vous" and text[:i].endswith("rendez"):
            return False
        return _CLITIC.fullmatch(tail[0]) is not None

    def _add(self, token: str) -> None:
        self._space = 0
        typed = plain(token)
        folded = typed.casefold()
        if len(folded) == len(typed) and not self._stretch:
            self._mark(self.length)
            self.text += folded
            self.length += len(token)
            return
        for letter in typed:
            for form in letter.casefold():
                if self._stretch and self.text[-1:] == form and form.isalpha():
                    self.runs[-1] += 1
                else:
                    self._mark(self.length)
                    self.text += form
                    self.runs += [1] if self._stretch else []
            self.length += 1

    def _add_space(self, count: int) -> None:
        for place in (1, SPACES + 1):
            if self._space < place <= self._space + count:
                at = self.length + place - self._space - 1
                self._mark(at)
                self.text += " " if place == 1 else "\n"
                self.runs += [1] if self._stretch else []
        self._space += count
        self.length += count

    def _mark(self, original: int) -> None:
        """The next folded character stands for the one at `original`."""
        end = self.end
        if original != self._original[-1] + end - self._folded[-1]:
            if self._folded[-1] == end:
                self._original[-1] = original
            else:
                self._folded.append(end)
                self._original.append(original)


@cache
def kind(letter: str) -> int:
    """OTHER, LETTER, or ALONE: a letter of a script without spaces."""
    if _SOLO.match(letter):
        return ALONE
    return LETTER if _WORD.match(letter) else OTHER


def plain(text: str) -> str:
    """Typographic apostrophes and hyphens made plain."""
    return text.translate(_PLAIN)


def fold_term(term: str) -> str:
    """A term as a folded text would show it."""
    folded = Folded()
    folded.feed(term.strip())
    return folded.text
