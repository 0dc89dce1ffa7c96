"""Generated rows: harmful and harmless differ in meaning alone."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import regex

from filters.builtin.categories import CATEGORIES
from filters.builtin.training.generate import Twins, generate, load

WORD = regex.compile(r"\p{L}+")


@pytest.fixture(scope="module")
def drawn() -> list[Twins]:
    return list(generate(seed=1, count=30000))


def test_both_sides_have_every_frame_equally_often(drawn: list[Twins]) -> None:
    families, _ = load()
    assert {twins.family for twins in drawn} == {family.name for family in families}
    for twins in drawn:
        assert twins.harmful.source == twins.harmless.source
        assert twins.harmful.language == twins.harmless.language
        assert twins.harmful.text != twins.harmless.text
        assert "{" not in twins.harmful.text + twins.harmless.text


def test_labels_tell_the_sides_apart(drawn: list[Twins]) -> None:
    for twins in drawn:
        harmful, harmless = twins.harmful.labels, twins.harmless.labels
        assert harmful["unsafe"] == 1.0
        assert set(harmless) == set(CATEGORIES)
        assert any(harmful.get(c) == 1.0 and harmless[c] == 0.0 for c in CATEGORIES)


def test_length_does_not_tell_the_sides_apart(drawn: list[Twins]) -> None:
    """In every category and language the mean lengths differ by a quarter at most."""
    sizes: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for twins in drawn:
        for category, value in twins.harmful.labels.items():
            if value and not twins.harmless.labels[category]:
                harmful, harmless = sizes[category, twins.harmful.language]
                harmful.append(len(twins.harmful.text))
                harmless.append(len(twins.harmless.text))
    for harmful, harmless in sizes.values():
        ratio = (sum(harmful) / len(harmful)) / (sum(harmless) / len(harmless))
        assert 0.75 < ratio < 1.33


def test_groups_and_telling_words_occur_on_both_sides(drawn: list[Twins]) -> None:
    """Who is spoken of says nothing: a group's share of harmful texts is near a half."""
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for twins in drawn:
        for row, harmful in ((twins.harmful, True), (twins.harmless, False)):
            for word in set(WORD.findall(row.text.lower())):
                counts[word][harmful] += 1
    for word in ("women", "muslims", "jews", "gay", "femmes", "musulmans", "juifs", "gays"):
        seen = counts[word]
        assert 0.35 < seen[True] / seen.total() < 0.75, (word, seen)
    for word in ("kill", "bomb", "steal", "tuer", "bombe", "voler"):
        assert min(counts[word][True], counts[word][False]) > 0, word


def test_the_same_seed_gives_the_same_rows() -> None:
    assert list(generate(3, 50)) == list(generate(3, 50))
    assert list(generate(3, 50)) != list(generate(4, 50))


def test_nothing_is_about_minors() -> None:
    families, slots = load()
    young = regex.compile(
        r"\b(child|children|kid|kids|minor|minors|teen|teens|teenager|underage|schoolgirl|"
        r"schoolboy|enfant|enfants|mineur|mineure|mineurs|ado|ados|fillette|écolière)\b",
        regex.IGNORECASE,
    )
    for family in families:
        if "sexual" in family.labels:
            for text in (*family.frames, *(side for pair in family.pairs for side in pair)):
                assert not young.search(text), text
    people = {name: fill for lang in slots.values() for name, fill in lang.items()}
    assert not [f for fill in people.values() for f in fill if young.search(str(f))]
