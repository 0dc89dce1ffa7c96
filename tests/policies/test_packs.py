"""Shipped packs: enough examples, the same in any cuts, and nothing held when they are over."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from filters.types import Context, Piece
from policies.document import Document
from policies.examples import screened
from policies.loader import LIBRARY, parse
from policies.plan import Policy
from policies.screen import StreamScreen

PACKS = sorted((LIBRARY / "packs").glob("*.yaml"))
PROSE = (
    ". Then they went home, and nobody spoke of it again; the key was lost with the house. "
    "Ensuite ils sont rentrés, et le jardin de la maison a fleuri en mai comme avant la pluie. "
) * 3
each_pack = pytest.mark.parametrize("path", PACKS, ids=lambda path: path.stem)


@cache
def policy(pack: str) -> Policy:
    rule = "{id: all, when: {p: any}, do: redact}"
    return parse(f"policy: t\nfilters: {{p: {{pack: {pack}}}}}\noutput: [{rule}]", "t").policy


def examples(path: Path) -> dict[str, dict[str, list[str]]]:
    data: Any = Document(path.read_text(encoding="utf-8"), str(path)).data
    return dict(data["examples"])


@each_pack
def test_every_category_has_three_of_each(path: Path) -> None:
    for category, of in examples(path).items():
        assert min(len(of["hit"]), len(of["pass"])) >= 3, category


@each_pack
async def test_one_character_at_a_time_changes_nothing(path: Path) -> None:
    for of in examples(path).values():
        for text in (*of["hit"], *of["pass"]):
            whole = await screened(policy(path.stem), "output", text)
            cut = await screened(policy(path.stem), "output", text, range(1, len(text)))
            assert (cut.text, cut.hits) == (whole.text, whole.hits)


@each_pack
async def test_nothing_is_held_when_an_example_is_over(path: Path) -> None:
    """Prose that follows goes as it comes: no pattern stays alive over it."""
    for of in examples(path).values():
        for text in (*of["hit"], *of["pass"]):
            screen = StreamScreen(policy(path.stem).plan("output"), Context("output"))
            whole = text + PROSE
            held = []
            for start in range(0, len(whole), 7):
                await screen.push(Piece(whole[start : start + 7]))
                if start > len(text) + 150:
                    held.append(screen.held)
            await screen.aclose()
            assert max(held) <= 24, text


@each_pack
async def test_prose_passes(path: Path) -> None:
    assert (await screened(policy(path.stem), "output", PROSE)).hits == ()


async def test_a_private_key_that_is_too_long_is_stopped() -> None:
    """Longer than the hold: an overflow, and no line of it has left."""
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "SyntheticExampleOnly01234567890123456789\n" * 200
    for cuts in ((), tuple(range(100, len(key), 100))):
        verdict = await screened(policy("secrets"), "output", f"Here: {key}", cuts)
        assert verdict.action.word == "block"
        assert verdict.text == "Here: "


async def test_a_private_key_without_an_end_goes_from_its_begin_on() -> None:
    text = "-----BEGIN PRIVATE KEY-----\nSyntheticExampleOnly0123456789\n\nThat was the key."
    verdict = await screened(policy("secrets"), "output", text, range(1, len(text)))
    assert verdict.text == "[PRIVATE_KEY]\n\nThat was the key."
