"""The `overlap` filter: an answer that repeats a stretch of the system prompt, word for word.

Words are compared case-folded; punctuation and spacing do not count. Each word of the prompt is
written as one character, so that "do these words stand in a row in the prompt" is a search for a
string in a string. The scan keeps the longest row of words that the text ends with and the prompt
holds, at most one more than is allowed; a finding covers all such rows that touch one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import regex

from filters.errors import FilterConfigError
from filters.folding import SOLO
from filters.registry import Resources
from filters.types import Context, Finding, Piece, Progress, Scope, Span

# Scripts without spaces: each character is a word. A word longer than 64 characters goes on as the
# next one, so that what is kept is bounded.
_WORD = regex.compile(rf"[{SOLO}]\p{{M}}{{0,8}}|(?:(?![{SOLO}])\w){{1,64}}")
_ROLES = frozenset({"system", "developer"})


class OverlapFilter:
    """Reports `overlap`, with score 1, where more than `words` words in a row are the prompt's.

    cap: characters that a finding has at most; what goes on behind it is another one.
    """

    scope: Scope = "conversation"
    immediate = True
    categories = frozenset({"overlap"})

    def __init__(self, name: str, words: int = 12, *, cap: int = 4096) -> None:
        self.name = name
        self.words = words
        self.cap = cap

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> OverlapFilter:
        """Build from YAML: `{words: 12}`."""
        if options is None:
            options = {}
        if not isinstance(options, Mapping):
            raise FilterConfigError("expected {words: 12}")
        if unknown := set(options) - {"words"}:
            word = min(map(str, unknown))
            raise FilterConfigError(f"unknown key {word!r}: words", (word,))
        words = options.get("words", 12)
        if not isinstance(words, int) or isinstance(words, bool) or not 1 <= words <= 200:
            raise FilterConfigError("`words` is a whole number from 1 to 200", ("words",))
        return cls(name, words, cap=resources.cap)

    def open(self, context: Context) -> OverlapScan:
        turns = [turn.text for turn in context.conversation if turn.role in _ROLES]
        return OverlapScan(self, turns)


class OverlapScan:
    def __init__(self, owner: OverlapFilter, turns: Sequence[str]) -> None:
        self._owner = owner
        self._code: dict[str, str] = {}
        self._prompt = "\0".join(self._written(turn) for turn in turns)
        # What a word of the prompt can begin with: any other end of the text is no row's.
        self._beginnings = {word[:n] for word in self._code for n in range(1, len(word) + 1)}
        self._rest = ""  # text behind the last whole word, from offset `_at` on
        self._at = 0
        self._row = ""  # the words that the text ends with, as far as the prompt holds them
        self._starts: list[int] = []  # of each of them
        self._found: Span | None = None
        self._said = 0  # end of the last finding

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        text, begin = self._rest + piece.text, 0
        for match in _WORD.finditer(text):
            if match.end() == len(text) and not final:
                break  # it may go on
            self._word(match[0], self._at + match.start(), self._at + match.end(), findings)
            begin = match.end()
        open_word = _WORD.search(text, begin)
        begin = len(text) if open_word is None else open_word.start()
        self._rest, self._at = text[begin:], self._at + begin
        if final:
            self._report(findings)
            return Progress(self._at + len(self._rest), findings)
        return Progress(self._settled(), findings)

    async def aclose(self) -> None:
        self._prompt, self._row, self._rest = "", "", ""
        self._starts, self._found = [], None

    def _settled(self) -> int:
        if self._found is not None:
            return self._found.start
        if self._rest and self._rest.casefold() not in self._beginnings:
            return self._at + len(self._rest)
        return max(self._starts[0], self._said) if self._row else self._at

    def _written(self, turn: str) -> str:
        """A character for each word; the same for the same word."""
        words = (match[0].casefold() for match in _WORD.finditer(turn))
        return "".join(self._code.setdefault(word, chr(len(self._code) + 1)) for word in words)

    def _word(self, word: str, start: int, end: int, findings: list[Finding]) -> None:
        most = self._owner.words
        code = self._code.get(word.casefold())
        row, starts = self._row[-most:] + (code or ""), [*self._starts[-most:], start]
        if code is None:
            row, starts = "", []
        while row not in self._prompt:
            row, starts = row[1:], starts[1:]
        self._row, self._starts = row, starts
        if self._found is not None and (not starts or starts[0] >= self._found.end):
            self._report(findings)
        if len(row) > most:
            first = max(starts[0], self._said) if self._found is None else self._found.start
            self._found = Span(first, end)
            if len(self._found) >= self._owner.cap:
                self._report(findings)

    def _report(self, findings: list[Finding]) -> None:
        if self._found is not None:
            findings.append(Finding(self._owner.name, "overlap", self._found))
            self._said, self._found = self._found.end, None
