"""One training from data to the fit. A stage leaves a file, and is skipped if that is there.

vocabulary.txt, words.json, start.pt   the base encoder with French words
french.pt                              the encoder taught French
examples.pt, kept.pt, held.pt, spare.pt   token ids and labels of what is trained on, kept for
                                       calibration, held out whole, and looked through for errors
fit-M.pt, mined-M-N.pt                 a member's fit so far, and what each process found
best-M.pt                              its weights that did best on what is held out
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import Tensor

from filters.builtin.scorer import WEIGHTS
from filters.builtin.text import Reader
from filters.builtin.training import quantise, sampling, vocabulary
from filters.builtin.training.alignment import translations
from filters.builtin.training.augment import half_translated, restyle
from filters.builtin.training.base import read_base, shape_of
from filters.builtin.training.batches import by_length, pad
from filters.builtin.training.encoder import Network, Shape
from filters.builtin.training.examples import Examples
from filters.builtin.training.french import begin_embeddings, distance
from filters.builtin.training.rows import Row, files, read_pairs, read_rows, read_texts, source
from filters.errors import FilterConfigError
from filters.views import fold

#: Sentences in English and in French.
_TRANSLATED = Path("lm", "tatoeba_pairs.jsonl.gz")
_LEXICON = Path(__file__).with_name("lexicon.yaml")
#: Tokens of a training text at most. What is longer is cut there.
_TOKENS = 128
Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Job:
    """data: folder with `train/`, and for an encoder with `lm/`. bases: folder with the encoder and
    its `vocab.txt`, or folders with classifiers that were trained before, to train on from the mean
    of their weights, each with its share (a model soup, Wortsman et al. 2022).

    minutes: time for the fit, 0 for none; `french`: for teaching French before it. made: pairs of
    generated rows. tell: told a stage's name and the share of it that is done. bfloat16: see
    `Plan`.
    device: as torch names it, where the network learns. members: fits that differ in chance alone.
    keep: share of the weights that it began with in those that ship; see `run.finish`.
    rate: factor of the learning rates. Raises ValueError for bases that have no mean, or nothing to
    keep of.
    """

    data: Path
    out: Path
    bases: Mapping[Path, float]
    minutes: float
    french: float
    made: int
    seed: int
    tell: Tell
    bfloat16: bool = False
    device: str = "cpu"
    members: int = 1
    rate: float = 1.0
    keep: float = 0.0

    def __post_init__(self) -> None:
        if not self.keep and len(self.bases) == 1:
            return
        for base in self.bases:
            if not (base / WEIGHTS).exists():
                why = "keep" if self.keep else "take a mean"
                raise ValueError(f"in {base} there is no {WEIGHTS} to {why} of")
        if len({(base / "vocabulary.txt").read_text(encoding="utf-8") for base in self.bases}) > 1:
            names = ", ".join(map(str, self.bases))
            raise ValueError(f"these have different vocabularies: {names}")

    @property
    def trained(self) -> bool:
        """Whether it begins with a classifier, not with an encoder."""
        return (self.base / WEIGHTS).exists()

    @property
    def base(self) -> Path:
        """The first of the bases."""
        return next(iter(self.bases))

    @property
    def work(self) -> Path:
        return self.out / "work"


def prepare(job: Job) -> None:
    """The stages before the fit. Raises FilterConfigError."""
    job.work.mkdir(parents=True, exist_ok=True)
    _same(job)
    if not (job.work / "start.pt").exists():
        _begin(job)
    if not (job.work / "french.pt").exists():
        _teach(job)
    if not (job.work / "examples.pt").exists():
        _examples(job)


def ordinary(source: str) -> bool:
    """Whether a source holds nothing harmful."""
    return "benign" in source


def _same(job: Job) -> None:
    """A stage that is there is gone on with: it has to be of the same bases, or rows."""
    now = {
        "bases": {str(base.resolve()): share for base, share in job.bases.items()},
        "rows": {path.name: path.stat().st_size for path in files(job.data / "train")},
        "made": job.made,
        "seed": job.seed,
    }
    told = job.work / "job.json"
    before = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    held = ["bases"] if (job.work / "start.pt").exists() else []
    held += ["rows", "made", "seed"] if (job.work / "examples.pt").exists() else []
    if other := [name for name in held if before.get(name) != now[name]]:
        raise FilterConfigError(
            f"{job.out} was begun with other {' and '.join(other)}: take another folder"
        )
    told.write_text(json.dumps(now, indent=1), encoding="utf-8")


def network(job: Job, weights: str) -> Network:
    """The network with the weights of a stage, on the device."""
    state = torch.load(job.work / weights, map_location="cpu", weights_only=True)
    made = Network(shape_of(state))
    made.load_state_dict(state, strict=False)
    return made.to(job.device)


def _begin(job: Job) -> None:
    job.tell("vocabulary", 0.0)
    translated = job.data / _TRANSLATED
    if not job.trained and not translated.exists():
        raise FilterConfigError(f"{translated} is missing, by which an encoder learns French")
    pairs = list(read_pairs(translated)) if translated.exists() else []
    known = _known(pairs)
    (job.work / "words.json").write_text(json.dumps(_back(known)), encoding="utf-8")
    if job.trained:
        for one in job.bases:
            quantise.calibration(one / WEIGHTS)  # told of now if it has none, not after the fit
        mean = _mean(job.bases)
        for name in ("vocabulary.txt", "often_hidden.txt"):  # texts are read as they are served
            if (job.base / name).exists():
                text = (job.base / name).read_text(encoding="utf-8")
                (job.work / name).write_text(text, encoding="utf-8")
        for stage in ("french.pt", "start.pt"):
            torch.save(mean, job.work / stage)
        return
    lexicon = _lexicon()
    rows = [r for f in files(job.data / "train") for r in read_rows(f)]
    french = [r.text for r in rows if r.language == "fr"]
    novels = job.data / "lm" / "eltec_fr.jsonl.gz"
    old = (job.base / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    pieces = vocabulary.build(
        old,
        [r.text[:600] for r in rows if r.language != "fr"] + [e for e, _ in pairs[::2]],
        french * 3
        + [f for _, f in pairs] * 2
        + ([t[:1200] for t in list(read_texts(novels))[::12]] if novels.exists() else []),
        always={w for word in [*lexicon, *lexicon.values()] for w in vocabulary.words(word)},
        new=12_000,
    )
    job.tell("vocabulary", 0.6)
    read = read_base(job.base)
    state = {**read, "tokens.weight": begin_embeddings(pieces, old, read["tokens.weight"], known)}
    state["positions.weight"] = read["positions.weight"][: Shape(1).positions].clone()
    (job.work / "vocabulary.txt").write_text("\n".join(pieces), encoding="utf-8")
    torch.save(state, job.work / "start.pt")
    job.tell("vocabulary", 1.0)


def _mean(bases: Mapping[Path, float]) -> dict[str, Tensor]:
    total = sum(bases.values())
    mean: dict[str, Tensor] = {}
    for base, share in bases.items():
        for name, tensor in quantise.read(base / WEIGHTS).items():
            part = tensor * (share / total)
            mean[name] = mean[name] + part if name in mean else part
    return mean


def _lexicon() -> dict[str, str]:
    return {fold(k): fold(str(v)) for k, v in YAML(typ="safe").load(_LEXICON).items()}


def _known(pairs: Sequence[tuple[str, str]]) -> dict[str, Sequence[tuple[str, float]]]:
    """French word -> English words with how likely each is."""
    split = [(vocabulary.words(e), vocabulary.words(f)) for e, f in pairs]
    short = [s for s in split if len(s[0]) < 25 and len(s[1]) < 25]
    known = dict(translations(short)) if short else {}
    return known | {french: [(english, 1.0)] for french, english in _lexicon().items()}


def _back(known: dict[str, Sequence[tuple[str, float]]]) -> dict[str, str]:
    """English word -> the French word that it translates best."""
    best: dict[str, tuple[float, str]] = {}
    for french, likely in known.items():
        english, chance = likely[0]
        if chance > 0.35 and english.isalpha() and french.isalpha():
            best[english] = max(best.get(english, (0.0, "")), (chance, french))
    return {english: french for english, (_, french) in best.items()}


def _teach(job: Job) -> None:
    """See filters.builtin.training.french."""
    chance = random.Random(job.seed)
    reader = Reader.from_file(job.work / "vocabulary.txt")
    teacher, student = network(job, "start.pt").eval(), network(job, "start.pt").eval()
    once = dict(read_pairs(job.data / _TRANSLATED))
    english, french = reader(once), reader(once.values())
    others = [p for name, p in student.named_parameters() if name != "tokens.weight"]
    groups: list[dict[str, Any]] = [{"params": [student.tokens.weight]}, {"params": others}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    began, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        for places in by_length([len(row) for row in french], tokens=3000, chance=chance):
            share = (time.monotonic() - began) / 60 / max(job.french, 1e-6)
            if share >= 1 and step:
                break
            scale = max(0.05, 1 - share) * min(1.0, (step + 1) / 30)
            for group, rate in zip(optimizer.param_groups, (1e-3, 6e-5), strict=True):
                group["lr"] = rate * scale
            ids, mask = pad([english[place] for place in places], student.device)
            read = pad([french[place] for place in places], student.device)
            with torch.autocast(student.device.type, torch.bfloat16, enabled=job.bfloat16):
                with torch.no_grad():
                    target, _ = teacher.pool(teacher.encode(ids, mask), mask)
                value = distance(student, *read, target)
                if step % 4 == 0:  # English must stay where it was.
                    value = value + distance(student, ids, mask, target)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            job.tell("French", min(share, 1.0))
    torch.save(student.state_dict(), job.work / "french.pt")


def _examples(job: Job) -> None:
    chance = random.Random(job.seed)
    job.tell("examples", 0.0)
    parts = sampling.split(job.data / "train", seed=job.seed, made=job.made)
    if not job.trained and not any(map(ordinary, (row.source for row in parts.calibration))):
        raise FilterConfigError(
            f"{job.data / 'train'}: without harmless sources, named *benign*, an encoder's scores"
            " cannot be calibrated"
        )
    around = _around(job.data / "train")
    words = json.loads((job.work / "words.json").read_text(encoding="utf-8"))
    rows: list[Row] = []
    for row in parts.training:
        language = "fr" if row.language == "fr" else "en"
        cut = sampling.pieces(row, 280 if chance.random() < 0.75 else 480, chance)
        rows.append(replace(cut, text=restyle(cut.text, around[language], chance)))
        if row.language == "en" and len(row.text) < 160 and _worth_translating(row, chance):
            other = half_translated(row.text, words, chance)
            rows.append(replace(row, text=other, language="fr"))
    chance.shuffle(rows)
    reader = Reader.from_file(job.work / "vocabulary.txt")
    for name, kept in (
        ("kept", parts.calibration),
        ("held", parts.held_out),
        ("spare", parts.spare),
        ("examples", rows),  # last: what is there is not made again
    ):
        Examples.read(kept, reader, longest=_TOKENS).save(job.work / f"{name}.pt")
    job.tell("examples", 1.0)


def _worth_translating(row: Row, chance: random.Random) -> bool:
    made = row.source.startswith("generated/")
    return not made and "tatoeba" not in row.source and chance.random() < 0.2


def _around(train: Path) -> dict[str, list[str]]:
    """Harmless sentences that texts are set among."""
    sources = {
        "en": ("benign_tatoeba_en", "goemotions_benign", "benign_instructions_gpteacher"),
        "fr": ("benign_tatoeba_fr", "benign_fiction_fr"),
    }
    return {
        language: [
            row.text[:160]
            for path in files(train)
            if source(path) in names
            for row in read_rows(path)
        ]
        for language, names in sources.items()
    }
