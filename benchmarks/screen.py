"""What screening costs, and what it holds back. Ratios within this one run; nothing is asserted.

    python benchmarks/screen.py

Prose is made of common English and French words (no data set is needed), one core.
"""

from __future__ import annotations

import asyncio
from random import Random
from time import perf_counter

from filters.types import Context, Piece
from policies.loader import load
from policies.screen import StreamScreen

SIZE = 64 * 1024
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "it",
    "was",
    "for",
    "on",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "or",
    "had",
    "by",
    "le",
    "la",
    "les",
    "de",
    "des",
    "un",
    "une",
    "et",
    "est",
    "que",
    "dans",
    "qui",
    "pour",
    "pas",
    "sur",
    "au",
    "avec",
    "il",
    "elle",
    "nous",
    "vous",
    "leur",
    "plus",
    "question",
    "people",
    "because",
    "house",
    "morning",
    "travail",
    "maison",
    "toujours",
    "aujourd'hui",
    "comment",
    "bonjour",
]


def prose(size: int, seed: int = 0) -> str:
    """Sentences of 4 to 14 words, `size` characters in all."""
    random = Random(seed)
    text = ""
    while len(text) < size:
        words = " ".join(random.choices(WORDS, k=random.randint(4, 14)))
        text += words.capitalize() + random.choice([". ", ". ", "? ", ", ", " : "])
    return text[:size]


async def longest_stretch(text: str) -> float:
    """Seconds that no other task has a turn while `text` is screened in one piece."""
    longest, last = 0.0, perf_counter()

    async def others() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0)
            now = perf_counter()
            longest, last = max(longest, now - last), now

    opened = StreamScreen(POLICY.plan("output"), Context("output"))
    task = asyncio.create_task(others())
    await opened.push(Piece(text), final=True)
    task.cancel()
    await opened.aclose()
    return longest


async def screen(text: str, cut: int) -> tuple[float, list[int]]:
    """Seconds to screen `text` in pieces of `cut`, and the characters held after each piece."""
    opened = StreamScreen(POLICY.plan("output"), Context("output"))
    held = []
    began = perf_counter()
    for start in range(0, len(text), cut):
        step = await opened.push(Piece(text[start : start + cut]))
        held.append(opened.held)
        if step.then == "stop":
            break
    await opened.push(Piece(""), final=True)
    seconds = perf_counter() - began
    await opened.aclose()
    return seconds, held


def best(text: str, cut: int, times: int = 3) -> float:
    """The least seconds of several runs: the machine's noise only adds."""
    return min(asyncio.run(screen(text, cut))[0] for _ in range(times))


def main() -> None:
    ordinary = prose(SIZE)
    base = best(ordinary, 4)
    one = best(ordinary, 1)
    print(f"policy patterns, {SIZE // 1024} Ki characters, output rules, one core")
    print(f"prose in pieces of 4:            {base:.3f} s  {base / SIZE * 4e6:6.1f} us a piece")
    print(f"prose one character at a time:   {one:.3f} s  {one / SIZE * 1e6:6.1f} us a piece")
    print(f"  ratio to pieces of 4           {one / base:.2f}")
    worst = {
        "one letter": "a" * SIZE,
        "one digit": "1" * SIZE,
        "an email without an end": "a." * (SIZE // 2),
        "white space": " " * SIZE,
        "a phrase begun again and again": ("the purple parrot " * SIZE)[:SIZE],
    }
    for name, text in worst.items():
        cost = best(text, 1)
        whole = best(text, len(text))
        print(
            f"{name:32} {cost:.3f} s one at a time: {cost / one:.2f} of prose one at a time, "
            f"{cost / base:.2f} of prose in pieces of 4; whole {whole:.3f} s"
        )
    for name, text in (("prose", ordinary), ("one digit", worst["one digit"])):
        whole = best(text, SIZE)
        stretch = min(asyncio.run(longest_stretch(text)) for _ in range(3))
        print(
            f"{name} in one piece: longest stretch without a turn for others {stretch / whole:.3f}"
        )
    held = sorted(asyncio.run(screen(ordinary, 4))[1])
    print(
        f"held after a piece of 4:         p50 {held[len(held) // 2]}, "
        f"p99 {held[len(held) * 99 // 100]}, most {held[-1]} characters"
    )


POLICY = load("patterns").policy

if __name__ == "__main__":
    main()
