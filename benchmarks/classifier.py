"""What a text classifier costs at work, on one core. Figures of this run; nothing is asserted.

    python -m benchmarks.classifier [--model builtin]

--model: `builtin`; a folder of the built-in's form; a transformers sequence classifier (folder or
hub id); or `random`, an untrained BERT of MiniLM's size (6 layers, width 384), whose cost is a
trained one's.

One text alone; many together, by processor time, which other programs disturb less; then streams of
20 tokens a second each, screened by a policy whose rule never answers: how long a sentence's end
waits for its score, and what that costs.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.screen import WORDS
from filters.batching import Batcher, TextModel
from filters.builtin.scorer import FOLDER, WEIGHTS, BuiltinModel, batched
from filters.registry import Resources
from filters.types import Context, Piece
from policies.loader import parse
from policies.plan import Policy
from policies.screen import StreamScreen

#: Tokens a second of one stream, and characters of a token.
RATE, CHARACTERS = 20.0, 4
Count = Callable[[str], int]


def opened(name: str, folder: Path) -> tuple[TextModel, Count]:
    """The model, and how many tokens it makes of a text."""
    if name == "random":
        name = random_bert(folder)
    where = Path(name)
    if name == "builtin" or (where / WEIGHTS).exists():
        made = BuiltinModel(FOLDER if name == "builtin" else where, threads=1)
        made.compute([""])
        reader: Any = made._model._reader  # noqa: SLF001  (counting tokens is no part of it)
        return made, lambda text: len(reader([text])[0])
    # Not at the top: torch counts as memory.
    import torch

    from filters.sequence_classifier import SequenceClassifier

    torch.set_num_threads(1)
    labels = sequence_labels(name)
    model = SequenceClassifier(name, labels, activation="sigmoid", device="cpu")
    tokenizer: Any = model._tokenizer  # noqa: SLF001
    return model, lambda text: len(tokenizer(text)["input_ids"])


def sequence_labels(name: str) -> Mapping[str, str]:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(name)
    return {label: label.lower() for label in config.label2id}


def random_bert(folder: Path) -> str:
    """A classifier of MiniLM's shape with random weights; word pieces are the prose's letters."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    letters = sorted({c for word in WORDS for c in word} | {"."})
    pieces = ["[PAD]", "[UNK]", *WORDS[::2], *letters, *(f"##{c}" for c in letters)]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    model: Any = WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=512
    )
    fast.save_pretrained(str(folder))
    made: Any = BertConfig
    shape = made(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=8,
    )
    BertForSequenceClassification(shape).save_pretrained(str(folder))
    return str(folder)


def sentence(random: Random, words: int) -> str:
    said = " ".join(random.choices(WORDS, k=words))
    return f"{said[:1].upper()}{said[1:]}."


def of_tokens(count: Count, tokens: int, seed: int) -> str:
    """A sentence of about so many tokens."""
    random = Random(seed)
    words = tokens
    for _ in range(20):
        made = sentence(random, words)
        found = count(made)
        if abs(found - tokens) <= 2:
            break
        words = max(1, round(words * tokens / found))
    return made


def alone_and_together(model: TextModel, count: Count, times: int = 15) -> None:
    texts = [of_tokens(count, 128, seed) for seed in range(64)]
    model.compute(texts[:8])

    def seconds(texts: Sequence[str], clock: Callable[[], float] = process_time) -> float:
        began = clock()
        model.compute(texts)
        return clock() - began

    one = [seconds([text], perf_counter) for text in texts[:times]]
    cpu = [seconds([text]) for text in texts[:times]]
    tokens = median(count(text) for text in texts)
    print(
        f"one text of {tokens:.0f} tokens: {median(one) * 1e3:.1f} ms, best {min(one) * 1e3:.1f};"
        f" {median(cpu) * 1e3:.1f} ms of processor time, best {min(cpu) * 1e3:.1f}"
    )
    mixed = [of_tokens(count, 8 + seed % 56, seed) for seed in range(128)]
    clauses = [of_tokens(count, 12, seed) for seed in range(128)]
    sentences = [of_tokens(count, 28, seed) for seed in range(128)]
    for name, many in (
        ("128 tokens", texts),
        ("8 to 64 tokens", mixed),
        ("28 tokens", sentences),
        ("12 tokens", clauses),
    ):
        ratios = []
        for _ in range(3):
            apart = sum(seconds([text]) for text in many)
            ratios.append(apart / seconds(many))
        print(
            f"{len(many)} texts of {name}: {median(ratios):.1f} times the texts a second together"
        )


POLICY = """
policy: benchmark
hold: {ms: 60000}
filters: {meaning: {classifier: it}}
output: [{id: never, when: {meaning: CATEGORY, at: 1.0}, do: block}]
"""


async def stream(policy: Policy, seconds: float, seed: int, waits: list[float]) -> int:
    """One stream in real time; `waits`: of pieces that ended a sentence. Returns characters."""
    random = Random(seed)
    await asyncio.sleep(random.random())  # streams do not begin together
    screen = StreamScreen(policy.plan("output"), Context("output", "assistant"))
    text = ""
    at, began = 0, perf_counter()
    while (now := perf_counter()) - began < seconds:
        while len(text) < at + CHARACTERS:
            text += sentence(random, random.randint(6, 24)) + " "
        asked = perf_counter()
        step = await screen.push(Piece(text[at : at + CHARACTERS]))
        if step.release.text:
            waits.append(perf_counter() - asked)
        at += CHARACTERS
        due = began + at / CHARACTERS / RATE
        await asyncio.sleep(max(0.0, due - max(now, perf_counter())))
    await screen.aclose()
    return at


async def streams(model: TextModel, count: int, seconds: float) -> None:
    batcher = batched(model) if isinstance(model, BuiltinModel) else Batcher(model)
    resources = Resources(classifiers={"it": batcher})
    category = str(next(iter(model.categories)))
    policy = parse(POLICY.replace("CATEGORY", category), "benchmark", resources).policy
    waits: list[float] = []
    began, cpu = perf_counter(), process_time()
    done = await asyncio.gather(*(stream(policy, seconds, n, waits) for n in range(count)))
    took, cost = perf_counter() - began, process_time() - cpu
    batcher.close()
    waits.sort()
    kept = sum(done) / CHARACTERS / RATE / (count * seconds)
    shown = [waits[min(len(waits) - 1, int(p * len(waits)))] * 1e3 for p in (0.5, 0.99)]
    print(
        f"{count:4} streams: added delay p50 {shown[0]:7.1f} ms, p99 {shown[1]:7.1f} ms;"
        f" {cost / took:5.1%} of a core; {cost / (count * seconds) * 1e3:6.2f} ms of it for a"
        f" second of stream; kept pace {kept:.0%}"
    )


def resident() -> float:
    """Mebibytes of this process, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(name: str, seconds: float) -> None:
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        model, count = opened(name, Path(folder))
        model.compute(["One text."])
        print(f"{name}: {resident() - before:.0f} MiB more resident once loaded")
        alone_and_together(model, count)
        for number in (1, 8, 64):
            asyncio.run(streams(model, number, seconds))
        print(f"{resident():.0f} MiB resident at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    given = parser.parse_args()
    main(given.model, given.seconds)
