"""Encodings undone as a text grows: base64, from whichever letter it begins at, and percents."""

from __future__ import annotations

import base64

import regex

from filters.view_steps import Chars

_RUN = regex.compile(r"(?P<in>[A-Za-z0-9+/_-]+)|[^A-Za-z0-9+/_-]+")


class Runs:
    """Shows runs of at least 16 base64 characters, a line break behind each, and nothing else.

    A run may be wrapped into lines, as mail and PEM have it; these show as one.
    """

    least = 16

    def __init__(self) -> None:
        self._start = Chars()  # of a run that may yet be too short
        self._inside = False
        self._edge = 0  # end of what was fed, in the original

    @property
    def held(self) -> int | None:
        return self._start.starts[0] if self._start.starts else None

    def feed(self, chars: Chars, *, final: bool) -> Chars:
        out = Chars()
        for token in _RUN.finditer(chars.text):
            at, end = token.span()
            if token["in"]:
                self._start.extend(chars.part(at, end))
                self._inside = self._inside or len(self._start.text) >= self.least
                if self._inside:
                    out.extend(self._start.take(len(self._start.text)))
                continue
            if self._inside:
                at = next((n for n in range(at, end) if chars.text[n] not in "\r\n"), end)
            if at < end:
                self._end(out, chars.starts[at])
        self._edge = chars.ends[-1] if chars.ends else self._edge
        if final:
            self._end(out, self._edge)
        return out

    def _end(self, out: Chars, at: int) -> None:
        if self._inside:
            out.add("\n", at, at)
        self._start, self._inside = Chars(), False


class Base64:
    """Shows what `Runs` say, and their line breaks.

    Each four characters give three bytes, so a run is decoded as it grows, whatever its length;
    bytes that are no UTF-8 show as U+FFFD.

    skip: characters left out at the start of each run, which may be those of a word before it.
    """

    def __init__(self, skip: int) -> None:
        self._skip = self._left = skip
        self._group = Chars()
        self._bytes: list[tuple[int, int, int]] = []  # byte, start, end

    @property
    def held(self) -> int | None:
        if self._bytes:
            return self._bytes[0][1]
        return self._group.starts[0] if self._group.starts else None

    def feed(self, chars: Chars, *, final: bool) -> Chars:  # noqa: ARG002 - runs end in a line break
        out, end = Chars(), -1
        for run in chars.text.split("\n"):
            at, end = end + 1, end + 1 + len(run)
            if at:
                self._decode(out, last=True)
                out.extend(chars.part(at - 1, at))
                self._left = self._skip
            skipped = min(self._left, len(run))
            self._left -= skipped
            self._group.extend(chars.part(at + skipped, end))
            self._decode(out, last=False)
        return out

    def _decode(self, out: Chars, *, last: bool) -> None:
        group = self._group
        while len(group.text) >= 4 or (last and group.text):
            four = group.take(min(4, len(group.text)))
            if len(four.text) > 1:
                plain = four.text.replace("-", "+").replace("_", "/")
                for byte in base64.b64decode(plain + "=" * (-len(plain) % 4)):
                    self._bytes.append((byte, four.starts[0], four.ends[-1]))
        self._show(out, last=last)

    def _show(self, out: Chars, *, last: bool) -> None:
        """Show the bytes as UTF-8, a character as soon as it is whole."""
        while self._bytes:
            lead = self._bytes[0][0]
            size = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            if len(self._bytes) < size and not last:
                return
            group, self._bytes = self._bytes[:size], self._bytes[size:]
            try:
                text = bytes(byte for byte, _, _ in group).decode()
            except UnicodeDecodeError:
                text = "\ufffd"
                self._bytes[:0] = group[1:]
                group = group[:1]
            out.add(text, group[0][1], group[-1][2])


PERCENT = r"(?:%[0-9A-Fa-f]{2}){1,64}"


def percent(chars: Chars) -> Chars:
    """The text of percent-encoded bytes (RFC 3986, 2.1), each character with its own bytes."""
    raw = bytes.fromhex(chars.text.replace("%", ""))
    out, at = Chars(), 0
    while at < len(raw):
        size = 1 if raw[at] < 0xC0 else 2 if raw[at] < 0xE0 else 3 if raw[at] < 0xF0 else 4
        try:
            text = raw[at : at + size].decode()
        except UnicodeDecodeError:
            text, size = "\ufffd", 1
        end = min(at + size, len(raw))
        out.add(text, chars.starts[3 * at], chars.ends[3 * end - 1])
        at = end
    return out
