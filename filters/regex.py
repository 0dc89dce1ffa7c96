"""The `regex` filter: exact patterns over text that grows, at about a word's delay.

The scan keeps one pointer, the earliest live start (see `filters.patterns`). Once dead, a start
stays dead, so the pointer only moves right; all that begins before it is settled, and matches that
begin before it are final. A list of all live starts would be cubic on one long word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from filters.errors import FilterConfigError, FilterTimeout
from filters.patterns import Rule, compile_rule, no_term, terms_pattern
from filters.registry import Resources
from filters.starts import LIVE, Starts
from filters.types import OVERFLOW, Context, Finding, Piece, Progress, Scope, Span
from filters.validators import VALIDATORS

#: Feeds are cut at multiples of this many characters, so that overflow and what look-behinds can
#: see depend on the text alone.
STEP = 1024
#: Characters that stay readable before the pointer, for look-behinds and `\b`.
LOOK_BEHIND = 1024


class RegexFilter:
    """Reports every match of every rule, each rule matched alone, with score 1.

    cap: characters for which a start may stay live before the scan reports an overflow there.
    timeout: seconds for one call of the matcher.
    """

    scope: Scope = "message"
    immediate = True

    def __init__(
        self, name: str, rules: Sequence[Rule], *, cap: int = 4096, timeout: float = 0.25
    ) -> None:
        if not rules:
            raise FilterConfigError("a regex filter needs at least one pattern")
        self.name = name
        self.rules = tuple(rules)
        self.cap = cap
        self.timeout = timeout
        self.starts = Starts(self.rules)

    @classmethod
    def from_options(cls, name: str, options: object, resources: Resources) -> RegexFilter:
        """Build from YAML: `{category: pattern | [pattern] | {pattern | terms, check, allow}}`."""
        return cls(name, list(_rules(options)), cap=resources.cap)

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(rule.category for rule in self.rules)

    def open(self, context: Context) -> RegexScan:  # noqa: ARG002
        return RegexScan(self)


class RegexScan:
    def __init__(self, owner: RegexFilter) -> None:
        self._owner = owner
        self._text = ""  # the text from offset `_base` on
        self._base = 0
        self._live = 0  # the earliest live start
        self._checked = 0  # length of text when liveness was last looked at
        self._cursors = [0] * len(owner.rules)  # per rule: end of its last match

    async def feed(self, piece: Piece, *, final: bool) -> Progress:
        findings: list[Finding] = []
        try:
            for part in _cut(piece.text, self._length):
                self._text += part
                length = self._base + len(self._text)
                if length % STEP == 0:
                    self._advance(findings)
                    self._overflow(findings)
                    self._trim()
                # Looking costs as much as the live text is long. Looking again only when that has
                # grown by a thirty-second keeps one character at a time linear; short words are
                # always looked at.
                elif length - self._checked > (self._checked - self._live) // 32:
                    self._advance(findings)
            if final:
                self._finish(findings)
        except TimeoutError as error:
            raise FilterTimeout(
                f"{self._owner.name}: a match took more than {self._owner.timeout} s"
            ) from error
        if findings:
            findings.sort(key=lambda f: f.span)
        return Progress(self._live, findings)

    async def aclose(self) -> None:
        self._text = ""

    @property
    def _length(self) -> int:
        return self._base + len(self._text)

    def _advance(self, findings: list[Finding]) -> None:
        """Move the earliest live start right, past the starts that are dead now."""
        text, starts = self._text, self._owner.starts
        at = starts.next(text, self._live - self._base)
        while at < len(text):
            look = starts.look(text, at, final=False)
            if look is not None:
                if look is LIVE or self._is_live(look[0], at):
                    break
                self._match(look[1], at, findings)
            at = starts.next(text, at + 1)
        self._live = self._base + at
        self._checked = self._length

    def _is_live(self, branches: Sequence[int], at: int) -> bool:
        owner, text = self._owner, self._text
        return any(
            owner.starts.branches[b].live.match(text, at, partial=True, timeout=owner.timeout)
            for b in branches
        )

    def _finish(self, findings: list[Finding]) -> None:
        """Report all matches that begin in what is there: nothing can change any more."""
        text, starts = self._text, self._owner.starts
        at = starts.next(text, self._live - self._base)
        while at < len(text):
            look = starts.look(text, at, final=True)
            if look is not None:
                self._match(look[1], at, findings)
            at = starts.next(text, at + 1)
        self._live = self._length

    def _match(self, branches: Sequence[int], at: int, findings: list[Finding]) -> None:
        """Report the matches that begin at `at`; none of them can change any more."""
        owner, text = self._owner, self._text
        tried: set[int] = set()
        for branch in (owner.starts.branches[b] for b in branches):
            number = branch.rule
            if number in tried or self._cursors[number] > self._base + at:
                continue
            if branch.match.match(text, at, timeout=owner.timeout) is None:
                continue
            tried.add(number)
            rule = owner.rules[number]
            found = rule.pattern.match(text, at, timeout=owner.timeout)
            if found is None or found.end() == at:
                continue
            self._cursors[number] = self._base + found.end()
            if rule.check is None or rule.check(found[0]):
                span = Span(self._base + at, self._base + found.end())
                findings.append(Finding(owner.name, rule.category, span))

    def _overflow(self, findings: list[Finding]) -> None:
        """Give up a start that has been live for longer than the cap, and say so."""
        if self._length - self._live <= self._owner.cap:
            return
        findings.append(Finding(self._owner.name, OVERFLOW, Span(self._live, self._length)))
        self._finish(findings)

    def _trim(self) -> None:
        spare = self._live - LOOK_BEHIND - self._base
        if spare > STEP:
            self._text = self._text[spare:]
            self._base += spare


def _cut(text: str, offset: int) -> Sequence[str]:
    """Cut `text`, which begins at `offset`, at multiples of STEP."""
    first = STEP - offset % STEP
    if len(text) <= first:
        return (text,) if text else ()
    return [text[:first], *(text[at : at + STEP] for at in range(first, len(text), STEP))]


def _rules(options: object) -> Iterator[Rule]:
    if not isinstance(options, Mapping) or not options:
        raise FilterConfigError("expected {category: pattern}, or {category: {terms: [...]}}")
    for category, entry in options.items():
        entries = entry if isinstance(entry, list) else [entry]
        for number, one in enumerate(entries):
            path = (category, number) if isinstance(entry, list) else (category,)
            yield _rule(str(category), one, path)


def _rule(category: str, entry: object, path: tuple[str | int, ...]) -> Rule:
    if isinstance(entry, str):
        return compile_rule(category, entry, path=path)
    if not isinstance(entry, Mapping):
        raise FilterConfigError("expected a pattern, or {pattern: …} or {terms: […]}", path)
    if unknown := set(entry) - {"pattern", "terms", "check", "allow", "stretch"}:
        word = min(unknown)
        raise FilterConfigError(
            f"unknown key {word!r}: pattern, terms, check, allow, stretch", (*path, word)
        )
    check = entry.get("check")
    if check is not None and check not in VALIDATORS:
        known = ", ".join(sorted(VALIDATORS))
        raise FilterConfigError(f"unknown check {check!r}: one of {known}", (*path, "check"))
    if ("pattern" in entry) == ("terms" in entry):
        raise FilterConfigError("give either `pattern` or `terms`", path)
    key = "pattern" if "pattern" in entry else "terms"
    source = entry[key]
    for option in ("allow", "stretch"):
        if option in entry and key != "terms":
            raise FilterConfigError(f"`{option}` goes with `terms`", (*path, option))
    if not isinstance(entry.get("stretch", False), bool):
        raise FilterConfigError("`stretch` is true or false", (*path, "stretch"))
    if key == "terms":
        source = terms_pattern(
            _terms(entry, key, path),
            _terms(entry, "allow", path),
            stretch=bool(entry.get("stretch")),
        )
    if not isinstance(source, str):
        raise FilterConfigError("`pattern` is text", (*path, key))
    validator = VALIDATORS.get(check or "")
    return compile_rule(category, source, validator, (*path, key), trusted=key == "terms")


def _terms(entry: Mapping[str, object], key: str, path: tuple[str | int, ...]) -> list[str]:
    terms = entry.get(key, [] if key == "allow" else None)
    if not isinstance(terms, list) or (key == "terms" and not terms):
        raise FilterConfigError(f"`{key}` is a list of words or phrases", (*path, key))
    for number, term in enumerate(terms):
        if wrong := no_term(term):
            raise FilterConfigError(wrong, (*path, key, number))
    return terms
