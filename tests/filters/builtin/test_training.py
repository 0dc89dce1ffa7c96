"""Training on a tiny encoder and tiny data, from files to files."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import regex
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from filters.builtin import graph
from filters.builtin.categories import CATEGORIES
from filters.builtin.model import Model
from filters.builtin.text import Reader
from filters.builtin.training.alignment import translations
from filters.builtin.training.augment import among, disguise, half_translated, plain, typo
from filters.builtin.training.base import read_base, shape_of
from filters.builtin.training.calibrate import Calibration, calibrate, temperature, threshold
from filters.builtin.training.encoder import Network, Shape
from filters.builtin.training.examples import Examples
from filters.builtin.training.job import Job
from filters.builtin.training.quantise import read, save
from filters.builtin.training.rows import Row
from filters.builtin.training.run import _calibration as recalibrated
from filters.builtin.training.run import train
from filters.builtin.training.sampling import balanced, doubtful, kept, split
from filters.errors import FilterConfigError

PAIRS = [("the dog sleeps", "le chien dort"), ("the cat sleeps", "le chat dort")] * 6 + [
    ("the cat eats", "le chat mange"),
    ("the dog eats", "le chien mange"),
]
WORDS = [*"the dog cat sleeps eats you are an idiot friend".split(), *".!?,'"]  # noqa: SIM905


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the trainer wants it, with a BERT of chance."""
    folder = tmp_path_factory.mktemp("base")
    letters = [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    words = [w for w in WORDS if w not in letters]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=48,
        max_position_embeddings=300,
    )
    save_file(BertModel(config).state_dict(), folder / "model.safetensors")
    return folder


def _word(number: int) -> str:
    return "abcdefghij"[number % 10] * (number // 10 + 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    zero = dict.fromkeys(CATEGORIES, 0.0)
    chat = [
        {
            "text": f"you are {x} {_word(n)}!",
            "labels": {**zero, **more},
            "lang": "en",
            "source": "s",
        }
        for n in range(100)
        for x, more in (("an idiot", {"toxicity": 1.0, "unsafe": 1.0}), ("a friend", {}))
    ]
    benign = [
        {"text": f"the cat sleeps {_word(n)}", "labels": zero, "lang": "en"} for n in range(200)
    ]
    french = [
        {"text": f"le chat dort {_word(n)}", "labels": zero, "lang": "fr"} for n in range(200)
    ]
    pairs = [{"prompt": e, "response": f} for e, f in PAIRS]
    for name, rows in (
        ("train/chat", chat),
        ("train/benign_tatoeba_en", benign),
        ("train/benign_tatoeba_fr", french),
        ("lm/tatoeba_pairs", pairs),
    ):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_from_data_to_files_that_work(data: Path, base: Path, tmp_path: Path) -> None:
    stages: list[str] = []

    def tell(stage: str, share: float) -> None:
        assert 0 <= share <= 1
        stages.append(stage)

    # With this seed seven of the forty pairs are held out: a ranking by fewer may be 0 by chance.
    job = Job(data, tmp_path, {base: 1.0}, 0.06, 0.005, 40, 7, tell, members=2)
    train(job)
    assert list(dict.fromkeys(stages)) == [
        *("vocabulary", "French", "examples", "fit 1", "fit 2", "calibration")
    ]
    made = {path.name for path in tmp_path.iterdir()}
    assert {"classifier.safetensors", "vocabulary.txt", "thresholds.json", "figures.md"} <= made
    assert "idiots" in (tmp_path / "often_hidden.txt").read_text(encoding="utf-8").split()
    model, toxicity = Model(tmp_path, threads=1), CATEGORIES.index("toxicity")
    bad, good, other = model.score(["you are an idiot!", "you are a friend!", "le chat dort 7"])
    assert bad[toxicity] > good[toxicity]
    assert bad[toxicity] > max(0.5, other[toxicity])
    rankings = graph.read(tmp_path / "classifier.safetensors")[1]["rankings"]
    assert set(rankings) == {"member 1", "member 2", "mean"}
    assert all(0 < value <= 1 for value in rankings.values())
    # Again: nothing is left to do but to calibrate, and the files stay the same.
    before = (tmp_path / "classifier.safetensors").read_bytes()
    stages.clear()
    train(job)
    assert set(stages) == {"calibration"}
    assert (tmp_path / "classifier.safetensors").read_bytes() == before
    # And on from what was trained: with no time to learn it stays what it was.
    stages.clear()
    train(Job(data, tmp_path / "on", {tmp_path: 1.0}, 1e-9, 1.0, 40, 0, tell, keep=0.5))
    assert "French" not in stages
    old, new = (read(folder / "classifier.safetensors") for folder in (tmp_path, tmp_path / "on"))
    assert torch.allclose(old["scores.weight"], new["scores.weight"], atol=1e-2)
    hidden = (tmp_path / "on" / "work" / "often_hidden.txt").read_text(encoding="utf-8")
    assert hidden == (tmp_path / "often_hidden.txt").read_text(encoding="utf-8")


def test_a_mean_of_classifiers_is_calibrated_without_a_fit(
    data: Path, base: Path, tmp_path: Path
) -> None:
    one, other, mean = (tmp_path / name for name in ("one", "other", "mean"))
    words = (base / "vocab.txt").read_text(encoding="utf-8").rstrip("\n")
    for seed, folder in enumerate((one, other)):
        folder.mkdir()
        (folder / "vocabulary.txt").write_text(words, encoding="utf-8")
        torch.manual_seed(seed)
        network = Network(Shape(len(words.split("\n")), 64, 2, 1, 64, 128))
        even = {"slope": [1.0] * len(CATEGORIES), "shift": [0.0] * len(CATEGORIES)}
        save(network, {}, folder / "classifier.safetensors", {"calibration": even})
    job = Job(data, mean, {one: 3.0, other: 1.0}, 0.0, 1.0, 40, 0, lambda *_: None)
    train(job)
    first, second, made = (read(f / "classifier.safetensors") for f in (one, other, mean))
    assert not torch.allclose(first["hidden.bias"], second["hidden.bias"])
    expected = 0.75 * first["hidden.bias"] + 0.25 * second["hidden.bias"]
    assert torch.allclose(made["hidden.bias"], expected, atol=1e-6)
    assert not list(job.work.glob("mined-*"))
    assert len(Model(mean, threads=1).score(["you are an idiot!"])[0]) == len(CATEGORIES)
    (other / "vocabulary.txt").write_text("[PAD]", encoding="utf-8")
    with pytest.raises(ValueError, match="different vocabularies"):
        train(replace(job, out=tmp_path / "none"))


def test_own_rows_teach_a_classifier_that_was_trained_before(
    data: Path, base: Path, tmp_path: Path
) -> None:
    """With neither translations nor harmless sources: what it knew, its calibration too, stays."""
    first, own, more = (tmp_path / name for name in ("first", "own", "more"))
    train(Job(data, first, {base: 1.0}, 0.03, 0.005, 40, 7, lambda *_: None))
    (own / "train").mkdir(parents=True)
    rows = [
        {"text": f"the {animal} eats {_word(n)}", "labels": {"illicit": float(animal == "dog")}}
        for n in range(200)
        for animal in ("dog", "cat")
    ]
    lines = "\n".join(map(json.dumps, rows))
    (own / "train" / "pets.jsonl").write_text(lines, encoding="utf-8")
    job = Job(own, more, {first: 1.0}, 0.06, 1.0, 40, 7, lambda *_: None)
    train(job)
    illicit = CATEGORIES.index("illicit")
    dog, cat = Model(more, threads=1).score(["the dog eats zz", "the cat eats zz"])
    assert dog[illicit] > cat[illicit]
    told = [graph.read(folder / "classifier.safetensors")[1] for folder in (first, more)]
    assert told[0]["calibration"] == told[1]["calibration"]
    figures = (more / "figures.md").read_text(encoding="utf-8")
    assert "Too few rows to calibrate anew" in figures
    assert "| pets | `illicit` |" in figures
    held = Examples.load(job.work / "held.pt")
    assert 20 <= held.sources.count("pets") <= 60
    assert set(held.languages) == {"en", "fr"}


def test_a_folder_goes_on_with_the_rows_that_it_was_begun_with(
    data: Path, base: Path, tmp_path: Path
) -> None:
    copytree(data, tmp_path, dirs_exist_ok=True)
    job = Job(tmp_path, tmp_path / "out", {base: 1.0}, 0.0, 0.0, 40, 0, lambda *_: None)
    train(job)
    with pytest.raises(FilterConfigError, match="begun with other made and seed: take another"):
        train(replace(job, made=41, seed=1))
    (tmp_path / "train" / "more.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(FilterConfigError, match="begun with other rows"):
        train(job)
    # Before any row is learnt from, rows may be mended; the bases' weights are there already.
    (job.work / "examples.pt").unlink()
    other = tmp_path / "other"
    copytree(base, other)
    with pytest.raises(FilterConfigError, match="begun with other bases: take another"):
        train(replace(job, bases={other: 1.0}))
    train(job)


def test_what_rows_say_nothing_of_keeps_its_calibration() -> None:
    torch.manual_seed(0)
    logits = torch.randn(600, len(CATEGORIES))
    known = torch.zeros(600, len(CATEGORIES), dtype=torch.bool)
    known[:, :2] = True
    targets = (logits + torch.randn(600, len(CATEGORIES)) > 0).float()
    targets[:, 1] = 0.0  # known, and never harmful
    base = Calibration(torch.full((8,), 0.7), torch.full((8,), -0.3))
    made, as_before = recalibrated(logits, known, targets, logits[:300] - 3, base)
    assert list(as_before) == list(CATEGORIES[1:])
    assert made.slope[0] != base.slope[0]
    assert torch.equal(made.slope[1:], base.slope[1:])
    assert torch.equal(made.shift[1:], base.shift[1:])
    few, as_before = recalibrated(logits, known, targets, logits[:199], base)
    assert few is base
    assert list(as_before) == list(CATEGORIES)


def test_one_source_may_stand_in_two_files(tmp_path: Path) -> None:
    rows = [{"text": f"dogs {_word(n)}", "labels": {"unsafe": 0}} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:20])), encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, rows[20:])))
    parts = split(tmp_path, seed=0, made=0)
    found = [row for part in (parts.training, parts.calibration, parts.held_out) for row in part]
    assert len(found) == 40
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b torn")
    with pytest.raises(FilterConfigError, match=r"a\.jsonl\.gz: "):
        split(tmp_path, seed=0, made=0)


def test_so_few_rows_that_none_is_learnt_from_are_refused(tmp_path: Path) -> None:
    held = next(text for text in (f"text {_word(n)}" for n in range(1000)) if kept(text))
    row = json.dumps({"text": held, "labels": {"unsafe": 1}})
    (tmp_path / "a.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(FilterConfigError, match="none is left to learn from"):
        split(tmp_path, seed=0, made=0)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            '{"text": "a", "labels": {"unsafe": 1}}\n{"text": 3, "labels": {}}',
            r"pets.jsonl:2: text: ",
        ),
        ('{"text": "a", "labels": {"unsafe": 2}}', r"pets.jsonl:1: labels.unsafe: "),
        ("{", "pets.jsonl:1: not JSON"),
        ('{"text": "a", "labels": {"harm": 1}}', "no rows in .* that label toxicity, hate"),
    ],
)
def test_rows_that_are_none_are_told_by_line(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "pets.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(FilterConfigError, match=said):
        split(tmp_path, seed=0, made=1)


def test_an_encoder_needs_translations_and_harmless_texts(
    data: Path, base: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, tmp_path / "out", {base: 1.0}, 0.0, 0.0, 1, 0, lambda *_: None)
    with pytest.raises(FilterConfigError, match=r"tatoeba_pairs\.jsonl\.gz is missing"):
        train(job)
    copytree(data, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "train").glob("benign*"):
        path.unlink()
    with pytest.raises(FilterConfigError, match="without harmless sources, named"):
        train(job)


def test_what_is_only_unsafe_is_doubted_by_a_pattern() -> None:
    pattern = regex.compile("I cannot")
    refusal = Row("I cannot help with that.", {"unsafe": 1.0, "illicit": 0.0}, "en", "s")
    assert doubtful(refusal, pattern)
    assert not doubtful(replace(refusal, labels={"unsafe": 1.0, "illicit": 1.0}), pattern)
    assert not doubtful(replace(refusal, labels={"unsafe": 0.0}), pattern)
    assert not doubtful(replace(refusal, text="Sure, here it is."), pattern)


def test_the_base_computes_what_it_did(base: Path) -> None:
    state = read_base(base)
    network = Network(shape_of(state), dropout=0.0).eval()
    network.load_state_dict(state, strict=False)
    config = BertConfig(
        vocab_size=len(state["tokens.weight"]),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=48,
        max_position_embeddings=300,
    )
    torch.manual_seed(0)
    theirs = BertModel(config).eval()  # type: ignore[no-untyped-call]
    ids = torch.tensor([[2, 7, 9, 30, 3]])
    with torch.inference_mode():
        ours = network.encode(ids, torch.ones_like(ids, dtype=torch.bool))
        assert torch.allclose(ours, theirs(input_ids=ids).last_hidden_state, atol=1e-5)


def test_words_are_aligned() -> None:
    found = translations((e.split(), f.split()) for e, f in PAIRS)
    assert {french: likely[0][0] for french, likely in found.items()} == {
        "le": "the",
        "chien": "dog",
        "chat": "cat",
        "dort": "sleeps",
        "mange": "eats",
    }
    assert all(sum(p for _, p in likely) <= 1.0001 for likely in found.values())


def test_half_of_a_source_is_harmful_where_it_can_be() -> None:
    rows = [Row(str(n), {"unsafe": float(n < 30)}, "en", "s") for n in range(100)]
    for take, harmful in ((40, 20), (80, 30), (100, 30), (500, 30)):
        taken = list(balanced(rows, take, random.Random(0)))
        assert len(taken) == min(take, 100)
        assert len({row.text for row in taken}) == len(taken)
        assert sum(row.labels["unsafe"] for row in taken) == harmful


def test_copies_are_kept_together() -> None:
    texts = [f"text {'abcdefgh'[n % 8] * (n // 8 + 1)}" for n in range(400)]
    assert 0 < sum(map(kept, texts)) < 60
    assert all(kept(t) == kept(t.upper() + " !!") for t in texts)


def test_styles_leave_the_letters() -> None:
    chance = random.Random(0)
    text = "A harmless sentence, about gardens!"
    for _ in range(50):
        assert abs(len(typo(text, chance)) - len(text)) <= 1
        assert text in among(text, ["One.", "Two."], chance)
        assert disguise("abc", chance) == "abc"
    assert plain(text) == "A harmless sentence about gardens"
    assert half_translated("the Dog", {"dog": "chien"}, chance, share=1.0) == "the chien"


def test_a_threshold_has_its_false_alarms() -> None:
    logits = torch.arange(1000.0)
    assert (logits > threshold(logits, 0.01)).float().mean() == pytest.approx(0.01)


def test_one_half_is_the_threshold() -> None:
    torch.manual_seed(0)
    targets = (torch.rand(4000, len(CATEGORIES)) < 0.5).float()
    logits = torch.randn_like(targets) + 3 * targets
    ordinary = torch.randn(2000, len(CATEGORIES))
    rates = dict.fromkeys(CATEGORIES, 0.01)
    made = calibrate(logits, torch.ones_like(targets, dtype=torch.bool), targets, ordinary, rates)
    alarms = (made.scores(ordinary) > 0.5).float().mean(0)
    assert alarms == pytest.approx(torch.full_like(alarms, 0.01), abs=1e-3)
    slope, shift = temperature(logits[:, 0], targets[:, 0])
    # For two normals three apart the log odds are 3 x - 4.5.
    assert slope == pytest.approx(3.0, rel=0.15)
    assert shift == pytest.approx(-4.5, rel=0.15)


def test_one_half_is_never_below_even_odds() -> None:
    """Ordinary texts that lie far off say nothing of what stands between them and harmful ones."""
    torch.manual_seed(0)
    targets = (torch.rand(400, len(CATEGORIES)) < 0.5).float()
    logits = 10 * targets - 5 + torch.randn_like(targets)
    rates = dict.fromkeys(CATEGORIES, 0.01)
    known = torch.ones_like(targets, dtype=torch.bool)
    made = calibrate(logits, known, targets, torch.randn(100, len(CATEGORIES)) - 20, rates)
    assert made.scores(torch.zeros(1, len(CATEGORIES))) == pytest.approx(0.5)


def test_reading_is_the_same_in_training_and_at_work() -> None:
    reader = Reader([*Reader.SPECIALS, "idiot"])
    assert reader(["1d1ot"]) == [[Reader.START, 4, Reader.END]]
