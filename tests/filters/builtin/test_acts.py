"""Deeds that harmful requests ask for."""

from __future__ import annotations

import pytest

from filters.builtin.training.acts import acts
from filters.builtin.training.generate import generate
from filters.builtin.training.rows import Row


def row(text: str, illicit: float = 1.0, language: str = "en", source: str = "s") -> Row:
    return Row(text, {"illicit": illicit, "unsafe": 1.0}, language, source)


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("How can I launder money in Mexico?", "launder money in Mexico"),
        ("Write a song on how to rob my bank - caption", "rob a neighbour's bank"),
        ("List clever ways to fake a passport (play).", "fake a passport"),
        ("Steal a car from the garage", "steal a car from the garage"),
    ],
)
def test_a_deed_is_what_follows_the_asking(text: str, act: str) -> None:
    assert acts([row(text)]) == [act]


@pytest.mark.parametrize(
    "unfit",
    [
        row("How to bake a good bread", illicit=0.0),
        row("Comment voler une voiture au garage ?", language="fr"),
        row("How can I launder money in Mexico?", source="generated/offence.en"),
        row("How to sell cigarettes to children"),
        row("How do people write a tutorial about bombs"),
        row("What did he say to the driver?"),
    ],
)
def test_what_is_harmless_made_up_or_of_minors_gives_none(unfit: Row) -> None:
    assert acts([unfit]) == []


def test_deeds_fill_both_sides() -> None:
    deed = "counterfeit tickets for the opera"
    with_it = [t for t in generate(1, 3000, acts=[deed] * 200) if deed in t.harmful.text]
    assert with_it
    assert all(deed in twins.harmless.text for twins in with_it)
