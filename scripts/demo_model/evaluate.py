"""Honest figures: chrF on held-out pairs, exact copies of texts never seen, a few greetings."""

from __future__ import annotations

from pathlib import Path
from random import Random

from sacrebleu.metrics.chrf import CHRF
from transformers import MistralForCausalLM, PreTrainedTokenizerFast

from scripts.demo_model import copying, entities
from scripts.demo_model.corpus import Corpus
from scripts.demo_model.generate import greedy, load

_SEED = 20_011  # of the evaluation; training draws from other seeds
_SHOWN = (
    "Repeat after me: write to jean.dupont@example.org today.",
    "Répète : ma carte est 4539 1488 0343 6467.",
    "Translate to French: Good morning.",
    "Translate to French: I am hungry.",
    "Traduis en anglais : Où est la gare ?",
    "Hello!",
    "Bonjour, comment allez-vous ?",
    "Who are you?",
    "Que sais-tu faire ?",
    "Thank you very much.",
)


def _copy_texts(corpus: Corpus, per_kind: int) -> dict[str, list[str]]:
    """Texts to copy, kind by kind; the sentences are held-out ones."""
    rng = Random(_SEED)
    held_out = rng.sample(list(corpus.held_out), len(corpus.held_out))
    generator = copying.Copying(corpus, lambda *_: "")
    words = [w for p in held_out for w in p.en.split() + p.fr.split()]

    def some(kind: str) -> list[str]:
        return [generator.text(rng, copying.language(rng), 12, kind) for _ in range(per_kind)]

    return {
        "sentence en": [p.en for p in held_out[:per_kind]],
        "sentence fr": [p.fr for p in held_out[:per_kind]],
        "email": [entities.email(rng) for _ in range(per_kind)],
        "card": [entities.card(rng) for _ in range(per_kind)],
        "phone": [entities.phone(rng) for _ in range(per_kind)],
        "random words": [
            " ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(per_kind)
        ],
        "nonsense": some("nonsense"),
        "carrier": some("carrier"),
        "21-40 words": [
            " ".join(rng.choices(words, k=rng.randint(21, 40)))
            if i % 2
            else " ".join(" ".join(p.en for p in rng.sample(held_out, 6)).split()[:40])
            for i in range(per_kind)
        ],
    }


def copy_rates(
    model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, per_kind: int
) -> dict[str, float]:
    """For each kind of text, the share that the model repeats character for character."""
    rates = {}
    for kind, texts in _copy_texts(corpus, per_kind).items():
        rng = Random(_SEED)
        asked = [copying.request(rng, copying.language(rng), text) for text in texts]
        answers = greedy(model, tokenizer, asked, max_new_tokens=200)
        rates[kind] = sum(a == t for a, t in zip(answers, texts, strict=True)) / len(texts)
    return rates


def translation_chrf(
    model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, n: int
) -> dict[str, float]:
    """chrF2 of greedy translations of `n` held-out sentences of at most 10 words, by direction.

    Every held-out translation of a sentence counts as a reference.
    """
    scores = {}
    for direction, ask in (
        ("en-fr", "Translate to French: {}"),
        ("fr-en", "Traduis en anglais : {}"),
    ):
        references: dict[str, list[str]] = {}
        for pair in corpus.held_out:
            source, target = (pair.en, pair.fr) if direction == "en-fr" else (pair.fr, pair.en)
            if len(source.split()) <= 10:
                references.setdefault(source, []).append(target)
        sources = Random(_SEED).sample(sorted(references), min(n, len(references)))
        answers = greedy(model, tokenizer, [ask.format(s) for s in sources], max_new_tokens=40)
        most = max(len(references[s]) for s in sources)
        columns = [[references[s][i % len(references[s])] for s in sources] for i in range(most)]
        scores[direction] = CHRF().corpus_score(answers, columns).score
        for source, answer in list(zip(sources, answers, strict=True))[:8]:
            print(f"  {source}  ->  {answer}   ({references[source][0]})")
    return scores


def evaluate(folder: Path, corpus: Corpus, *, per_kind: int = 100, sentences: int = 500) -> None:
    """Prints the figures of the model card for the model in `folder`, as shipped (bfloat16
    weights, computed in float32)."""
    model, tokenizer = load(folder)
    for asked, answer in zip(_SHOWN, greedy(model, tokenizer, _SHOWN), strict=True):
        print(f"{asked}  ->  {answer}")
    for kind, rate in copy_rates(model, tokenizer, corpus, per_kind).items():
        print(f"copied exactly, {kind}: {rate:.0%} of {per_kind}")
    for direction, score in translation_chrf(model, tokenizer, corpus, sentences).items():
        print(f"chrF {direction}: {score:.1f}")
