"""The demo model's generators and tokenizer, and what the shipped weights can do."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from scripts.demo_model import copying, entities, smalltalk, translating
from scripts.demo_model.conversation import Example, Turn
from scripts.demo_model.corpus import Corpus, Pair, key, read_phrases, split_pairs
from scripts.demo_model.mix import Mix
from scripts.demo_model.muon import orthogonalize
from scripts.demo_model.tokens import CONTROL, Encoder, train_tokenizer

_SUBJECTS = {"I": "Je", "you": "Tu", "we": "Nous", "they": "Ils", "she": "Elle", "he": "Il"}
_VERBS = {"sing": "chante", "eat": "mange", "sleep": "dors", "run": "cours", "read": "lis"}
_WHEN = {"now": "maintenant", "here": "ici", "often": "souvent", "today": "aujourd'hui"}


def _pairs() -> list[Pair]:
    return [
        Pair(f"{s} {v} {w} {n}.", f"{_SUBJECTS[s]} {_VERBS[v]} {_WHEN[w]} {n} !", n == 3)
        for s in _SUBJECTS
        for v in _VERBS
        for w in _WHEN
        for n in range(8)
    ]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    training, held_out = split_pairs(_pairs())
    return Corpus(
        pairs=training,
        held_out=held_out,
        phrases=read_phrases(),
        dialogues=[(Turn("I need a taxi.", "Where to?"), Turn("To Rouen.", "It is coming."))],
        novels_en=["It was a dark night, and the rain fell on the roofs of the town. " * 20],
        novels_fr=["La nuit était sombre, et la pluie tombait sur les toits de la ville. " * 20],
    )


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    texts = [t for p in corpus.pairs for t in (p.en, p.fr)] + smalltalk.texts()
    return train_tokenizer(texts, 700)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer)


@pytest.fixture(scope="module")
def mix(corpus: Corpus, encoder: Encoder) -> Mix:
    return Mix(corpus, encoder)


# --- the split


def test_held_out_and_training_share_no_sentence_in_either_language() -> None:
    pairs = [*_pairs(), Pair("He sings!", "Nous chante ici 1 !")]
    training, held_out = split_pairs(pairs)
    assert held_out
    assert len(training) > len(pairs) / 2
    for side in ("en", "fr"):
        shared = {key(getattr(p, side)) for p in training} & {
            key(getattr(p, side)) for p in held_out
        }
        assert not shared
    assert not any(p.reserved for p in training)


def test_the_split_does_not_depend_on_order_or_company() -> None:
    pairs = _pairs()
    _, held_out = split_pairs(pairs)
    _, of_half = split_pairs(pairs[::-2])
    assert set(of_half) == set(held_out) & set(pairs[::-2])


# --- the generators


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 44))
def test_a_copy_request_holds_its_answer(
    corpus: Corpus, mix: Mix, rng: Random, longest: int
) -> None:
    example = copying.Copying(corpus, mix.random_tokens).example(rng, longest)
    (turn,) = example.turns
    assert turn.answer in turn.user
    assert turn.answer == turn.answer.strip() != ""


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_translation_request_holds_a_training_sentence_and_answers_its_other_side(
    corpus: Corpus, rng: Random
) -> None:
    (turn,) = translating.Translating(corpus.pairs, corpus.phrases).example(rng).turns
    matching = [p for p in (*corpus.pairs, *corpus.phrases) if turn.answer in (p.en, p.fr)]
    assert matching
    assert any(
        key(source) in key(turn.user)
        for p in matching
        for source in (p.en, p.fr)
        if source != turn.answer
    )


def test_wordings_come_in_both_languages_with_and_without_quotes() -> None:
    rng = Random(0)
    asked = [copying.request(rng, "fr", "le mot") for _ in range(400)]
    assert any(a.endswith(": le mot") for a in asked)
    assert any("« le mot »" in a for a in asked)
    assert any("“le mot”" in a for a in asked)
    assert len(set(asked)) > 60


def test_every_kind_of_copy_gives_text(corpus: Corpus, mix: Mix) -> None:
    generator = copying.Copying(corpus, mix.random_tokens)
    for kind in generator.kinds:
        texts = {generator.text(Random(seed), "fr", 12, kind) for seed in range(20)}
        assert len(texts) > 5, kind


def test_entities_have_their_shape() -> None:
    rng = Random(5)
    for _ in range(50):
        assert entities.email(rng).count("@") == 1
        assert sum(c.isdigit() for c in entities.card(rng)) == 16
        assert sum(c.isdigit() for c in entities.phone(rng)) >= 10


def test_the_shares_of_the_mix(mix: Mix) -> None:
    rng = Random(2)
    kinds = Counter(mix.example(rng, 0.5).kind for _ in range(4000))
    assert 0.26 < kinds["copy"] / 4000 < 0.34
    assert 0.53 < kinds["translate"] / 4000 < 0.61
    assert kinds["talk"]
    assert kinds["dialogue"]
    assert kinds["novel"]
    early = Counter(mix.example(rng, 0.0).kind for _ in range(1000))
    assert early["copy"] > 650


# --- batches


def test_labels_are_the_answers_and_stand_one_place_before(encoder: Encoder, mix: Mix) -> None:
    example = Example("talk", (Turn("Hello", "Hi!"), Turn("Bye", "See you!")), system="Be kind.")
    ids, mask = encoder.example(example)
    text = encoder.decode(ids)
    assert text == "<s>[INST]Be kind.\n\nHello[/INST]Hi!</s>[INST]Bye[/INST]See you!</s>"
    assert encoder.decode([i for i, m in zip(ids, mask, strict=True) if m]) == (
        "Hi!</s>See you!</s>"
    )
    for batch, labels in mix.batches(Random(1), 0.5, tokens=512, pool=4):
        assert batch.shape == labels.shape
        for row, wanted in zip(batch.tolist(), labels.tolist(), strict=True):
            following = [after for _, after in pairwise([*row, None])]
            assert all(w in (-100, f, encoder.eos) for w, f in zip(wanted, following, strict=True))
            assert encoder.eos in wanted or max(wanted) >= 0


def test_batches_hold_little_padding(mix: Mix) -> None:
    batches = list(mix.batches(Random(1), 0.6, tokens=1024))
    size = sum(ids.numel() for ids, _ in batches)
    padding = sum(int((ids == 0).sum()) for ids, _ in batches)
    assert padding < 0.15 * size


def test_the_template_and_the_encoder_agree(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder
) -> None:
    example = Example("talk", (Turn("Hello", "Hi!"), Turn("Bye", "See you!")), system="Be kind.")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you!"},
    ]
    rendered = tokenizer.apply_chat_template(messages, return_dict=False)
    assert rendered == encoder.example(example)[0]
    partial = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    assert str(partial).endswith("[/INST]See you!")


# --- the tokenizer


@settings(deadline=None)
@given(st.text())
def test_tokens_give_back_the_text(encoder: Encoder, text: str) -> None:
    if not any(control in text for control in CONTROL):
        assert encoder.decode(encoder.text(text)) == text


@settings(deadline=None)
@given(st.text(alphabet="ab é'’ .,!?:;«»“”\"()19\n-@", max_size=30))
def test_tokens_give_back_typography(encoder: Encoder, text: str) -> None:
    assert encoder.decode(encoder.text(text)) == text


def test_digits_stand_alone(encoder: Encoder) -> None:
    assert [encoder.decode([i]) for i in encoder.text("4539 1488")] == list("4539 1488")


@pytest.mark.parametrize("frame", ["Repeat: {}", "Répète : « {} »", 'Say "{}".', "Say:\n{}"])
@pytest.mark.parametrize("text", ["I sing", "write to a@b.fr", "4539 1488", "Où est l'eau"])
def test_a_quoted_text_is_cut_as_when_alone(encoder: Encoder, frame: str, text: str) -> None:
    alone, framed = encoder.text(text), encoder.text(frame.format(text))
    assert any(framed[i : i + len(alone)] == alone for i in range(len(framed)))


# --- Muon


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 1000))
def test_orthogonalised_matrices_keep_their_directions(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(3, rows, columns, generator=generator)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    kept = u.transpose(1, 2) @ orthogonalize(matrices) @ vh.transpose(1, 2)
    off = kept - torch.diag_embed(torch.diagonal(kept, dim1=1, dim2=2))
    assert_close(off, torch.zeros_like(off), atol=2e-3, rtol=0)
    strong = s / s.norm(dim=1, keepdim=True) > 0.1
    values = torch.diagonal(kept, dim1=1, dim2=2)[strong]
    assert values.min() > 0.5
    assert values.max() < 1.4
