"""Reads the data folder and keeps the held-out sentence pairs away from everything else."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from scripts.demo_model.conversation import Turn

_HELD_OUT_OF = 100  # one English sentence in so many is held out
_SPACES = re.compile(r"\s+")
_NOT_A_WORD = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Pair:
    """An English sentence and a French one that translate each other."""

    en: str
    fr: str
    reserved: bool = False  # the source's own validation row: never trained on


@dataclass(frozen=True, slots=True)
class Corpus:
    """All the texts of a run. `pairs` and `held_out` share no sentence in either language."""

    pairs: Sequence[Pair]
    held_out: Sequence[Pair]
    phrases: Sequence[Pair]
    dialogues: Sequence[tuple[Turn, ...]]
    novels_en: Sequence[str]
    novels_fr: Sequence[str]


def clean(text: str) -> str:
    """`text` with each run of white space, no-break spaces included, as one plain space."""
    return _SPACES.sub(" ", text).strip()


def key(sentence: str) -> str:
    """The sentence without case and punctuation: what makes two sentences 'the same' here."""
    return _NOT_A_WORD.sub(" ", sentence.lower()).strip()


def split_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Cuts pairs into (training, held out) by a hash of the English sentence.

    A pair that shares either side with a held-out or reserved one is dropped from training.
    """
    held_out = [p for p in pairs if zlib.crc32(key(p.en).encode()) % _HELD_OUT_OF == 0]
    kept_away = [*held_out, *(p for p in pairs if p.reserved)]
    english = {key(p.en) for p in kept_away}
    french = {key(p.fr) for p in kept_away}
    training = [p for p in pairs if key(p.en) not in english and key(p.fr) not in french]
    return training, held_out


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_pairs(data: Path) -> list[Pair]:
    """The Tatoeba pairs of the folder, both sides cleaned, shortest first."""
    return [
        Pair(clean(str(r["prompt"])), clean(str(r["response"])), r.get("split") != "train")
        for r in _rows(data / "tatoeba_pairs.jsonl.gz")
    ]


def read_phrases(kept_away: Sequence[Pair] = ()) -> list[Pair]:
    """The phrasebook that stands beside this file, less what is held out."""
    known = {key(t) for p in kept_away for t in (p.en, p.fr)}
    lines = Path(__file__).with_name("phrasebook.tsv").read_text(encoding="utf-8").splitlines()
    phrases = [Pair(en, fr) for en, fr in (line.split("\t") for line in lines)]
    return [p for p in phrases if key(p.en) not in known and key(p.fr) not in known]


def _dialogue(row: dict[str, object]) -> tuple[Turn, ...]:
    messages = row["messages"]
    assert isinstance(messages, list)  # noqa: S101 - the file's own format
    texts = [clean(str(m["content"])) for m in messages]
    return tuple(Turn(u, a) for u, a in zip(texts[::2], texts[1::2], strict=False))


def read_corpus(data: Path, *, novels: int = 3000) -> Corpus:
    """Reads the folder that holds the four files; of each language's novels, every n-th chunk.

    Raises:
        FileNotFoundError: a file is missing.
    """
    every_pair = read_pairs(data)
    pairs, held_out = split_pairs(every_pair)
    reserved = [p for p in every_pair if p.reserved]
    chunks = {
        lang: [str(r["text"]) for r in islice(_rows(data / f"eltec_{lang}.jsonl.gz"), 0, None, 4)]
        for lang in ("en", "fr")
    }
    return Corpus(
        pairs=pairs,
        held_out=held_out,
        phrases=read_phrases([*held_out, *reserved]),
        dialogues=[_dialogue(r) for r in _rows(data / "sgd_dialogues.jsonl.gz")],
        novels_en=[clean(t) for t in chunks["en"][:novels]],
        novels_fr=[clean(t) for t in chunks["fr"][:novels]],
    )
