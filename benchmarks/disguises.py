"""How many disguised terms a policy's views find, and what they find in harmless text.

    python benchmarks/disguises.py --terms TERMS.txt --benign FILE.jsonl.gz [FILE …]

TERMS.txt: one term a line; the first 200 of 4 to 24 letters are taken. FILE: JSON Lines with a
`text`. Prints recall for each disguise, and the share of harmless texts with any finding.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

from filters.builtin.training.rows import read_texts
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Filter, Piece
from filters.viewed import ViewedFilter, viewed

CYRILLIC = str.maketrans("aceopxyi", "асеорхуі")
FULL_WIDTH = {ord(c): chr(ord(c) + 0xFEE0) for c in "abcdefghijklmnopqrstuvwxyz"}
LEET = str.maketrans("aeiost", "431057")
MARKS = str.maketrans("aeiou", "áèîöü")
BOLD = {ord(c): chr(0x1D41A + n) for n, c in enumerate("abcdefghijklmnopqrstuvwxyz")}

DISGUISES: dict[str, Callable[[str, Random], str]] = {
    "capitals": lambda t, _: t.upper(),
    "look-alikes": lambda t, _: t.translate(CYRILLIC),
    "full width": lambda t, _: t.translate(FULL_WIDTH),
    "bold mathematics": lambda t, _: t.translate(BOLD),
    "zero width": lambda t, _: "\u200b".join(t),
    "accents": lambda t, _: t.translate(MARKS),
    "leet": lambda t, _: t.translate(LEET),
    "spaced": lambda t, _: "   ".join(" ".join(word) for word in t.split()),
    "punctuated": lambda t, r: " ".join(r.choice(".-_*").join(word) for word in t.split()),
    "repeated": lambda t, r: "".join(c * r.choice([1, 3, 4]) if c.isalpha() else c for c in t),
    "base64": lambda t, _: base64.b64encode(f"they said {t} again".encode()).decode(),
    "percent": lambda t, _: "".join(f"%{b:02X}" for b in t.encode()),
}


def make(terms: list[str]) -> ViewedFilter:
    def build(options: object) -> Filter:
        return RegexFilter.from_options("terms", options, Resources())

    names = ["plain", "disguised", "decoded"]
    return viewed("terms", {"term": {"terms": terms}}, names, build)


async def finds(made: ViewedFilter, text: str) -> bool:
    scan = made.open(Context("input"))
    return bool((await scan.feed(Piece(text), final=True)).findings)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terms", type=Path, required=True)
    parser.add_argument("--benign", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    listed = dict.fromkeys(given.terms.read_text(encoding="utf-8").lower().splitlines())
    terms = [t for t in listed if 4 <= len(t) <= 24 and t.replace(" ", "").isalpha()][:200]
    made = make(terms)
    random = Random(0)
    print(f"{len(terms)} terms")
    found_in_all = 0
    for name, disguise in DISGUISES.items():
        hidden = [f"Well, {disguise(term, random)} it is." for term in terms]
        found = sum([await finds(made, text) for text in hidden])
        found_in_all += found
        print(f"{name:18} recall {found / len(terms):.3f}")
    print(f"{'all':18} recall {found_in_all / len(terms) / len(DISGUISES):.3f}")
    for file in given.benign:
        plain = [f async for f in _each(make_plain(terms), file)]
        seen = [f async for f in _each(made, file)]
        only = sum(a and not b for a, b in zip(seen, plain, strict=True))
        print(
            f"{file.name}: {len(seen)} texts, {sum(seen)} with a finding, {sum(plain)} with the "
            f"term itself, {only} through a view alone ({only / len(seen):.4%})"
        )


def make_plain(terms: list[str]) -> ViewedFilter:
    def build(options: object) -> Filter:
        return RegexFilter.from_options("terms", options, Resources())

    return viewed("terms", {"term": {"terms": terms}}, ["plain"], build)


async def _each(made: ViewedFilter, file: Path) -> AsyncIterator[bool]:
    for text in read_texts(file):
        yield await finds(made, text)


if __name__ == "__main__":
    asyncio.run(main())
