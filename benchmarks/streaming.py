"""What finding costs while text streams. Figures and ratios of this one run; nothing is asserted.

    python benchmarks/streaming.py

One core, prose of common English and French words. A delta is four characters.
Time is the thread's own.
"""

from __future__ import annotations

import asyncio
import re
from random import Random
from time import perf_counter, thread_time

from benchmarks.screen import prose
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.terms import TermsFilter
from filters.types import Context, Filter, Piece
from policies.document import Document
from policies.loader import LIBRARY, load
from policies.screen import StreamScreen

DELTA = 4
TAIL = 256


def packs() -> tuple[RegexFilter, TermsFilter]:
    """All patterns of all shipped packs in one filter, and all their terms in another."""
    found: dict[str, dict[str, object]] = {"regex": {}, "terms": {}}
    for path in sorted((LIBRARY / "packs").glob("*.yaml")):
        data = Document(path.read_text(encoding="utf-8"), str(path)).data
        assert isinstance(data, dict)  # noqa: S101  (a test loads every pack)
        for kind, options in found.items():
            options |= {f"{path.stem}-{name}": x for name, x in data.get(kind, {}).items()}
    return (
        RegexFilter.from_options("patterns", found["regex"], Resources()),
        TermsFilter.from_options("terms", found["terms"], Resources()),
    )


def listed(count: int) -> TermsFilter:
    random = Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzéèà"
    terms = {"".join(random.choices(letters, k=random.randint(4, 12))) for _ in range(count)}
    return TermsFilter("terms", {"listed": sorted(terms)})


def generated(count: int) -> RegexFilter:
    """`count` patterns of five forms."""
    random = Random(0)
    forms = (
        r"\b{0}\s{{1,3}}\w{{1,20}}\b",
        r"\b{0}-\d{{4,8}}\b",
        r"(?i)\b{0}(?:es|s)?\b",
        r"(?<![\w.]){0}[0-9a-f]{{16}}\b",
        r"\b{0}\s?[:=]\s?\S{{1,40}}",
    )
    words = ("".join(random.choices("abcdefghijklmnoprstuv", k=6)) for _ in range(count))
    options = {"x": [forms[n % len(forms)].format(word) for n, word in enumerate(words)]}
    return RegexFilter.from_options("many", options, Resources())


async def feed(filters: list[Filter], text: str, cut: int) -> tuple[float, list[int]]:
    """Seconds for all deltas, and characters that are not settled after each."""
    scans = [made.open(Context("output")) for made in filters]
    held = []
    began = thread_time()
    for at in range(0, len(text), cut):
        end = min(at + cut, len(text))
        piece = Piece(text[at:end])
        steps = [await scan.feed(piece, final=end == len(text)) for scan in scans]
        held.append(end - min(step.settled for step in steps))
    return thread_time() - began, held


def best(filters: list[Filter], text: str, cut: int = DELTA, times: int = 5) -> float:
    """The least seconds of several runs, after one that fills what is remembered."""
    asyncio.run(feed(filters, text, cut))
    return min(asyncio.run(feed(filters, text, cut))[0] for _ in range(times))


def with_tail(filters: RegexFilter, text: str) -> tuple[float, int]:
    """As others do it: `re` on each delta with the last 256 characters, pattern by pattern."""
    patterns = []
    for rule in filters.rules:
        try:
            patterns.append(re.compile(rule.source))
        except re.error:
            continue  # not in the syntax of `re`
    began = thread_time()
    for at in range(0, len(text), DELTA):
        window = text[max(0, at - TAIL) : at + DELTA]
        for pattern in patterns:
            pattern.search(window)
    return thread_time() - began, len(patterns)


async def screened(text: str) -> list[int]:
    """Characters held by the policy `patterns`'s screen after each delta."""
    screen = StreamScreen(load("patterns").policy.plan("output"), Context("output"))
    held = []
    for at in range(0, len(text), DELTA):
        await screen.push(Piece(text[at : at + DELTA]))
        held.append(screen.held)
    await screen.aclose()
    return sorted(held)


def costs(patterns: RegexFilter, words: TermsFilter, terms: TermsFilter, text: str) -> None:
    deltas = len(text) / DELTA
    sets: tuple[tuple[str, list[Filter], str], ...] = (
        (f"{len(patterns.rules)} patterns of the packs", [patterns], " (target 25)"),
        ("  and 100,000 terms", [patterns, terms], " (target 40)"),
        ("  and the packs' terms", [patterns, words], ""),
        ("  and both lists of terms", [patterns, words, terms], ""),
    )
    for name, filters, target in sets:
        seconds = best(filters, text)
        print(f"{name + ':':34} {seconds / deltas * 1e6:8.1f} us a delta{target}")
    for name, made in (("patterns", patterns), ("100,000 terms", terms)):
        seconds = best([made], text, len(text))
        print(f"{'whole text, ' + name + ':':34} {len(text) / seconds / 1e6:8.2f} MB/s")
    seconds, able = with_tail(patterns, text[: len(text) // 8])
    name = f"`re`, tail of {TAIL}, {able} patterns:"
    print(f"{name:34} {seconds / (deltas / 8) * 1e6:8.1f} us a delta")


def growth(all_packs: RegexFilter) -> None:
    text = prose(16 * 1024)
    for count in (10, 100, 1000):
        cost = best([generated(count)], text, times=2) / len(text) * DELTA
        print(f"{count:5} generated patterns:           {cost * 1e6:8.1f} us a delta")
    for size in (1024, 32 * 1024, 1024 * 1024):
        cost = best([all_packs], prose(size), 64, times=1) / size
        print(f"text of {size // 1024:5} kB in pieces of 64:    {cost * 1e6:8.2f} us a character")


def worst(all_packs: RegexFilter) -> None:
    size = 8 * 1024
    ordinary = best([all_packs], prose(size), 1)
    texts = {
        "one letter": "a" * size,
        "one digit": "1" * size,
        "an email without an end": "a." * (size // 2),
        "white space": " " * size,
        "keys begun again": ("api_key = " * size)[:size],
        "a phrase begun again": ("ignore all " * size)[:size],
    }
    for name, text in texts.items():
        ratio = best([all_packs], text, 1, times=1) / ordinary
        print(f"one at a time, {name + ':':26} {ratio:6.2f} of prose one at a time (target 5)")


def main() -> None:
    began = perf_counter()
    patterns, words = packs()
    print(f"packs built in {perf_counter() - began:.2f} s")
    began = perf_counter()
    terms = listed(100_000)
    print(f"100,000 terms built in {perf_counter() - began:.2f} s")
    text = prose(32 * 1024)
    costs(patterns, words, terms, text)
    held = asyncio.run(screened(text))
    print(
        f"held, policy patterns:             p50 {held[len(held) // 2]}, "
        f"p99 {held[len(held) * 99 // 100]} characters (target p50 6)"
    )
    growth(patterns)
    worst(patterns)


if __name__ == "__main__":
    main()
