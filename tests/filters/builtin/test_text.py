"""What the built-in classifier reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.builtin.text import Reader

WORDS = ["you", "are", "an", "idiot", "tue", "tu", "es", "bete", "kill", "a", "b", "##b", "##a"]
READER = Reader([*Reader.SPECIALS, *WORDS])


@pytest.mark.parametrize(
    "text",
    [
        "you are an IDIOT",
        "you are an idi\u200bot",
        "you are an 1d10t",
        "you are an i.d.i.o.t",
        "you are an i d i o t",
        "you are an idiooooot",
        "you are an іdіоt",
        "you are an ｉｄｉｏｔ",
        "you are an íd!ot",
    ],
)
def test_disguises_read_as_what_they_disguise(text: str) -> None:
    assert READER([text]) == READER(["you are an idiot"])


def test_accents_are_folded_and_numbers_stay() -> None:
    assert READER.clean("Tu es bête") == "tu es bete"
    assert READER.clean("in 2019, 100 %") == "in 2019, 100 %"
    assert READER.clean("you!!!") == "you!!!"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    [ids] = READER([text])
    assert ids[0] == Reader.START
    assert ids[-1] == Reader.END
    assert all(0 <= one < len(READER.vocabulary) for one in ids)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_company_does_not_change_what_is_read(texts: list[str]) -> None:
    assert READER(texts) == [READER([text])[0] for text in texts]


def test_long_texts_are_cut() -> None:
    reader = Reader([*Reader.SPECIALS, *WORDS], longest=8)
    assert [len(row) for row in reader(["you are " * 50, "you"])] == [8, 3]


def test_hidden_letters_are_those_of_words_that_are_often_hidden() -> None:
    words = ["shot", "where", "slot", "bitte"]
    plain = Reader([*Reader.SPECIALS, *words])
    assert plain.clean("what a sl*t, wh*re") == "what a slot, where"
    knowing = Reader([*Reader.SPECIALS, *words], often_hidden=["slut", "whore"])
    assert knowing.clean("what a sl*t, wh*re") == "what a slut, whore"
    assert knowing.clean("sh*t and b*tte") == "shot and bitte"
    assert knowing.clean("the slot where") == "the slot where"
    for sign in "@#%&$_-":
        assert knowing.clean(f"what a sl{sign}t") == "what a slut"
    assert knowing.clean("well-known b-tte, sl--, a-slot") == "well-known b-tte, sl--, a-slot"


@pytest.mark.parametrize("text", ["a" + "-" * 200_000, "a*" * 100_000, "a-" * 100_000 + "1"])
def test_signs_without_end_are_read_in_linear_time(text: str) -> None:
    reader = Reader([*Reader.SPECIALS, *WORDS], often_hidden=["idiot"])
    assert reader.clean(text) == text
