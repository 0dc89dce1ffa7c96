"""Trains the demo model that ships in `model_runner/demo`, and evaluates it.

    python -m scripts.train_demo_model --data DIR --out runs/demo --minutes 80
    python -m scripts.train_demo_model --data DIR --evaluate model_runner/demo

On a CPU of several cores, a process a core trains faster than one with a thread a core:

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m scripts.train_demo_model ...

DIR holds `tatoeba_pairs`, `sgd_dialogues`, `eltec_en` and `eltec_fr` (`.jsonl.gz`). Run again with
the same `--out`, training goes on from the last checkpoint; `OUT/latest` is always loadable.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scripts.demo_model import smalltalk
from scripts.demo_model.copying import Copying
from scripts.demo_model.corpus import Corpus, read_corpus
from scripts.demo_model.evaluate import copy_rates, evaluate
from scripts.demo_model.mix import Mix
from scripts.demo_model.tokens import Encoder, train_tokenizer
from scripts.demo_model.training import SIZES, Settings, Trainer, new_model
from scripts.demo_model.translating import Translating


def tokenizer_texts(corpus: Corpus) -> Iterator[str]:
    """What the vocabulary is learnt from: the mix, with more of the sentences than of the rest."""
    rng = Random(1)
    copying = Copying(corpus, lambda *_: "")
    translating = Translating(corpus.pairs)
    for _ in range(40_000):
        turn = translating.example(rng).turns[0]
        yield from (turn.user, turn.answer)
    for _ in range(20_000):
        yield copying.example(rng, 20).turns[0].user
    for pair in corpus.pairs[::2]:
        yield from (pair.en, pair.fr)
    for novel in (*corpus.novels_en[::8], *corpus.novels_fr[::8]):
        yield novel[:3000]
    for dialogue in corpus.dialogues[::10]:
        for turn in dialogue:
            yield from (turn.user, turn.answer)
    yield from smalltalk.texts() * 20


def _tokenizer(corpus: Corpus, out: Path, size: int) -> PreTrainedTokenizerFast:
    folder = out / "tokenizer"
    if not folder.exists() and (not dist.is_initialized() or dist.get_rank() == 0):
        train_tokenizer(tokenizer_texts(corpus), size).save_pretrained(folder)
    if dist.is_initialized():
        dist.barrier()
    loaded = AutoTokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)  # noqa: S101
    return loaded


def train(arguments: argparse.Namespace) -> None:
    """Trains for the minutes asked, a short copying test after each checkpoint."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo", timeout=timedelta(hours=1))
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(arguments.data)
    tokenizer = _tokenizer(corpus, out, arguments.vocabulary)
    mix = Mix(corpus, Encoder(tokenizer))
    size = arguments.size or ("base" if device == "cuda" else "small")
    model = new_model(SIZES[size], tokenizer).to(device)
    batch = arguments.tokens_per_batch or (16_384 if device == "cuda" else 2048)
    settings = Settings(arguments.minutes, batch, seed=arguments.seed)
    trainer = Trainer(model, tokenizer, mix, settings, out)
    trainer.resume()
    print(f"{model.num_parameters():,} parameters, {device}, {len(corpus.pairs):,} pairs")
    for folder in trainer.run():
        rates = copy_rates(model, tokenizer, corpus, per_kind=4)
        print(f"\n{folder.name}: copied exactly, of 4 a kind: {rates}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="checkpoints go here")
    parser.add_argument("--minutes", type=float, default=80, help="training time, stops excluded")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--size", choices=sorted(SIZES), help="default: base on a GPU, else small")
    parser.add_argument("--vocabulary", type=int, default=8192, help="entries of the tokenizer")
    parser.add_argument("--tokens-per-batch", type=int, help="default: 16384 on a GPU, else 2048")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure this model only")
    arguments = parser.parse_args()
    if arguments.evaluate:
        torch.set_num_threads(arguments.threads)
        evaluate(arguments.evaluate, read_corpus(arguments.data))
    else:
        train(arguments)


if __name__ == "__main__":
    main()
