"""The network as it serves: near the one that was trained, and a function of each text alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import cache
from math import nan
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

from filters.builtin.categories import CATEGORIES
from filters.builtin.graph import LEVELS
from filters.builtin.model import Model
from filters.builtin.scorer import FOLDER, BuiltinModel
from filters.builtin.text import Reader
from filters.builtin.training.encoder import Network, Shape
from filters.builtin.training.quantise import input_ranges, read, save
from filters.errors import FilterConfigError

Tensors = dict[str, Any]
About = dict[str, Any]
WORDS = ["good", "bad", "day", "you", "are", "a", "the", "##s", ".", "!"]
READER = Reader([*Reader.SPECIALS, *WORDS])
PLAIN = [word for word in WORDS if "#" not in word]  # one token each
SHAPE = Shape(
    len(READER.vocabulary), width=64, heads=2, layers=2, inner=96, positions=32, hidden=16
)


def _network() -> Network:
    torch.manual_seed(0)
    network = Network(SHAPE, dropout=0.0).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    # So that places and who looks at whom matter as much as words.
    torch.nn.init.normal_(network.get_parameter("positions.weight"), std=1.0)
    for number in range(SHAPE.layers):
        weight = network.get_parameter(f"layers.{number}.query_key_value.weight")
        torch.nn.init.normal_(weight, std=0.5)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier with weights by chance."""
    where = tmp_path_factory.mktemp("builtin")
    network = _network()
    ranges = input_ranges(network, READER(["good day .", "you are bad !"] * 8), share=1.0)
    calibration = {"slope": [0.2] * len(CATEGORIES), "shift": [0.0] * len(CATEGORIES)}
    save(network, ranges, where / "classifier.safetensors", {"calibration": calibration})
    (where / "vocabulary.txt").write_text("\n".join(READER.vocabulary), encoding="utf-8")
    return where


@cache
def _model(folder: Path) -> Model:
    return Model(folder, threads=1)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(PLAIN), max_size=SHAPE.positions - 2).map(" ".join))
def test_it_serves_what_was_trained(folder: Path, text: str) -> None:
    """The network that torch runs on floats, of the weights in the file, its inputs cut alike."""
    file = folder / "classifier.safetensors"
    network = _network()
    network.load_state_dict(read(file))
    for name, largest in load_file(file).items():
        if name.endswith(".largest"):
            layer = network.get_submodule(name.removesuffix(".largest"))
            layer.register_forward_pre_hook(_cut(2 * float(largest) / LEVELS))
    ids = torch.tensor(READER([text]))
    with torch.inference_mode():
        logits = network(ids, torch.ones_like(ids, dtype=torch.bool))
    trained = torch.sigmoid(0.2 * logits)[0]
    (served,) = torch.tensor(_model(folder).score([text]))
    # Rounding differs where a last digit does: by far less than what a wrong network would.
    assert (trained - served).abs().max() < 0.03 * trained.std()


def _cut(step: float) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], torch.Tensor]:
    """To multiples of `step`, from -64 to 191 of them."""
    return lambda _, given: (given[0] / step).round().clamp(-64, 191) * step


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), max_size=6))
def test_company_and_order_do_not_change_scores(folder: Path, texts: list[str]) -> None:
    model = _model(folder)
    alone = [model.score([text])[0] for text in texts]
    assert model.score(texts) == alone
    assert model.score(texts[::-1]) == alone[::-1]
    assert all(0 <= score <= 1 for row in alone for score in row)


def test_threads_do_not_change_scores() -> None:
    before = _threads()
    one, four = (Model(FOLDER, threads=threads) for threads in (1, 4))
    texts = ["The garden was quiet, and the baker opened his shop. " * n for n in range(60)]
    assert one.score(texts) == four.score(texts)
    assert _threads() > before + 1
    for model in (one, four):
        model.close()
    assert _threads() == before


def _threads() -> int:
    return sum(thread.name.startswith("builtin-classifier") for thread in threading.enumerate())


def test_a_long_text_scores_as_its_parts(folder: Path) -> None:
    """The highest of each category over parts that overlap, so that nothing is left out."""
    model = Model(folder, threads=1)
    words = ["the", "day", "."] * 20 + ["bad", "!"]
    room, step = SHAPE.positions - 2, (SHAPE.positions - 2) * 3 // 4
    parts = [" ".join(words[at : at + room]) for at in range(0, len(words) - room + step, step)]
    assert parts[-1].endswith("bad !")
    best = [max(column) for column in zip(*model.score(parts), strict=True)]
    assert model.score([" ".join(words)])[0] == best


def test_a_model_that_is_not_there_says_so(tmp_path: Path) -> None:
    model = BuiltinModel(tmp_path)
    with pytest.raises(FilterConfigError, match="not a built-in classifier"):
        model.load()


def _without(name: str) -> Callable[[Tensors, About], None]:
    return lambda tensors, _: tensors.__delitem__(name)


def _shape(**sizes: int) -> Callable[[Tensors, About], None]:
    return lambda _, about: about["shape"].update(sizes)


WRONG: list[tuple[Callable[[Tensors, About], Any], str]] = [
    (lambda t, _: t.update({"more.weight": t["scores.bias"]}), r"no place for: more\.weight"),
    (_without("layers.1.norm.bias"), r"layers\.1\.norm\.bias"),
    (lambda t, _: t.update({"norm.bias": t["norm.bias"][1:]}), r"norm\.bias: expected \(64,\)"),
    (
        lambda t, _: t.update({"tokens.rows": t["tokens.rows"] * 1.0}),
        r"rows: expected int8",
    ),
    (lambda _, a: a["calibration"].update(slope=[1.0] * 7), "calibration: expected 8 numbers"),
    (lambda _, a: a["calibration"].update(shift=[nan] * 8), "calibration: expected 8 numbers"),
    (_shape(positions=3), "3 positions are fewer than 4"),
    (_shape(heads=0), "a width of 64 in 0 heads"),
    (_shape(heads=5), "a width of 64 in 5 heads"),
    (_shape(vocabulary=9), r"tokens\.rows: expected \(9, 64\)"),
    (lambda _, a: a["shape"].pop("positions"), "positions"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG)
def test_a_folder_that_is_none_is_told_why(
    folder: Path, tmp_path: Path, spoil: Callable[[Tensors, About], Any], said: str
) -> None:
    (tmp_path / "vocabulary.txt").write_bytes((folder / "vocabulary.txt").read_bytes())
    with safe_open(folder / "classifier.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["about"])
    spoil(tensors, about)
    metadata = {"about": json.dumps(about)}
    save_file(tensors, tmp_path / "classifier.safetensors", metadata=metadata)
    with pytest.raises(FilterConfigError, match=said):
        BuiltinModel(tmp_path).load()


def test_a_vocabulary_that_does_not_fit_is_told(folder: Path, tmp_path: Path) -> None:
    copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocabulary.txt").write_text("[PAD]", encoding="utf-8")
    with pytest.raises(FilterConfigError, match="1 word pieces, where the weights have 14"):
        BuiltinModel(tmp_path).load()
    others = "\n".join(READER.vocabulary[::-1])
    (tmp_path / "vocabulary.txt").write_text(others, encoding="utf-8")
    with pytest.raises(FilterConfigError, match="does not begin with"):
        BuiltinModel(tmp_path).load()
    (tmp_path / "vocabulary.txt").unlink()
    with pytest.raises(FilterConfigError, match=r"No such file.*vocabulary\.txt"):
        BuiltinModel(tmp_path).load()


def test_rows_are_named(folder: Path) -> None:
    [row] = BuiltinModel(folder).compute(["good day"])
    assert tuple(row) == CATEGORIES
