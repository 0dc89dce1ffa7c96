"""Look-behinds that give back: what they say of text that is there is final."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from filters.looking_behind import lazy_behind
from filters.regex import RegexFilter
from filters.registry import Resources
from filters.types import Context, Piece

REPEATS = st.sampled_from(["", "", "?", "*", "{0,3}", "{1,2}", "{2}", "??", "?+", "{0,2}+"])
ATOMS = st.sampled_from(
    ["a", "b", "[ab?]", r"\w", " ", r"\?", "(?:ab?|b)", "(?>a?b)", "(?:ab{0,2})"]
)
INSIDE = st.lists(st.tuples(ATOMS, REPEATS).map("".join), min_size=1, max_size=4).map("".join)


@given(INSIDE, st.text("ab c?", min_size=5, max_size=12), st.integers(0, 3))
def test_what_is_behind_is_known(inside: str, text: str, at: int) -> None:
    holds = regex.compile(f"(?<={inside})").match(text, at) is not None
    live = regex.compile(lazy_behind(f"(?<={inside})") + "(?s:.+)(?!)")
    assert (live.match(text, at, partial=True) is not None) == holds


@pytest.mark.parametrize(
    ("source", "made"),
    [
        (r"a?(?<=les? \p{Lu}{1,2}y{2})b?", r"a?(?<=les?? \p{Lu}{1,2}?y{2})b?"),
        (r"(?<=a?? b?+ [?*] \?)", r"(?<=a?? b?+ [?*] \?)"),
        (r"(?<=(?>ab?)c?)", r"(?<=(?>ab?)c??)"),
        (r"(?<=(?:ab?)++c?)", r"(?<=(?:ab?)++c??)"),
        (r"(?<=(?P<n>a?)b?)(?P=n)", r"(?<=(?P<n>a?)b??)(?P=n)"),
        (r"(?<!(?:a?b)?)(?=c?)", r"(?<!(?:a??b)??)(?=c?)"),
    ],
)
def test_only_what_gives_back_is_made_lazy(source: str, made: str) -> None:
    assert lazy_behind(source) == made


async def test_nothing_is_held_for_what_cannot_stand_before() -> None:
    pattern = r"(?<=commandes? )\d{6}(?!\d)"
    scan = RegexFilter.from_options("f", {"order": pattern}, Resources()).open(Context("output"))
    for said, letter in enumerate("Les demandes 123456 sont closes depuis hier.", 1):
        progress = await scan.feed(Piece(letter), final=False)
        assert said - progress.settled <= 7  # the number, and one more
    await scan.aclose()
