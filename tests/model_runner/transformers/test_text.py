from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from model_runner.transformers import codec as codecs
from model_runner.transformers import mistral
from model_runner.transformers.codec import Codec
from model_runner.transformers.text import Detokenizer
from tests.support import tiny


def byte_level() -> Codec:
    words = tiny.tokenizer()
    return codecs.from_tokenizer(words.backend_tokenizer, bos=1, eos=2)


def sentencepiece(scheme: str) -> Codec:
    words = tiny.metaspace(scheme)
    return codecs.from_tokenizer(words.backend_tokenizer, bos=1, eos=2)


MAKERS: dict[str, Callable[[], Codec]] = {
    "byte-level": byte_level,
    "metaspace": lambda: sentencepiece("first"),
    "prepend": lambda: sentencepiece("prepend"),
    "v1": lambda: mistral.codec_of(MistralTokenizer.v1()),
    "v3": lambda: mistral.codec_of(MistralTokenizer.v3()),
    "tekken": lambda: mistral.codec_of(MistralTokenizer.v3(is_tekken=True)),
}


@pytest.fixture(scope="module", params=MAKERS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return MAKERS[request.param]()


def decoded(codec: Codec, ids: list[int]) -> str:
    return codec.decoder.decode([i for i in ids if i not in codec.special])


@cache
def parts_of_characters(codec: Codec) -> list[int]:
    return sorted(codec.byte_tokens) or [
        i for i in range(min(codec.size, 5000)) if "\ufffd" in codec.decoder.decode([i])
    ]


def tokens(codec: Codec) -> st.SearchStrategy[list[int]]:
    """Any ids, with many that are part of a character only."""
    parts = parts_of_characters(codec)
    one = st.one_of(st.integers(0, codec.size - 1), st.sampled_from(parts))
    text = st.text(max_size=4).map(codec.encode)
    return st.lists(st.one_of(one.map(lambda i: [i]), text), max_size=12).map(
        lambda lists: [i for part in lists for i in part]
    )


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_pieces_join_to_the_whole(codec: Codec, data: st.DataObject) -> None:
    ids = data.draw(tokens(codec))
    detokenizer = Detokenizer(codec)
    text = "".join([detokenizer.push(i) for i in ids]) + detokenizer.flush()
    assert text == decoded(codec, ids)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_behind_a_primer_the_text_goes_on(codec: Codec, data: st.DataObject) -> None:
    before = data.draw(st.text(min_size=1).map(codec.encode).filter(bool))
    if before[-1] in codec.byte_tokens or decoded(codec, before).endswith("\ufffd"):
        return
    ids = data.draw(tokens(codec))
    detokenizer = Detokenizer(codec, before)
    text = "".join([detokenizer.push(i) for i in ids]) + detokenizer.flush()
    assert decoded(codec, before) + text == decoded(codec, before + ids)


@settings(deadline=None, max_examples=150)
@example(text=" ")
@example(text=" a")
@given(text=st.text().filter(lambda text: "\u2581" not in text))
def test_text_survives(codec: Codec, text: str) -> None:
    ids = codec.encode(text)
    # The "first" scheme puts no space before one that is there, so that " a" is read as "a".
    joined = codec.encode(" a") == codec.encode("a") and text.startswith(" ")
    read = text[1:] if joined else text
    assert decoded(codec, ids) == read
    space = "" if codec.byte_level or not text else " "
    assert b"".join(map(codec.bytes_of, ids)).decode() == space + read
    assert decoded(codec, codec.encode("a") + codec.extend(text)) == "a" + text


def test_whole_characters_come_at_once(codec: Codec) -> None:
    detokenizer = Detokenizer(codec)
    pieces = [detokenizer.push(i) for i in codec.encode("né à 👩‍🔬 a")]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == "né à 👩‍🔬 a"


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=40))
def test_no_token_has_more_bytes_than_the_longest(codec: Codec, text: str) -> None:
    """So what is refused for its bytes has too many tokens, however it is encoded."""
    assert len(codec.encode(text)) * codec.longest >= len(text.encode())
