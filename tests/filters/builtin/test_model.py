"""The network as it serves: near the one that was trained, and a function of each text alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from filters.builtin.categories import CATEGORIES
from filters.builtin.model import Model
from filters.builtin.scorer import FOLDER, BuiltinModel
from filters.builtin.text import Reader
from filters.builtin.training.encoder import Network, Shape
from filters.builtin.training.quantise import input_ranges, read, save
from filters.errors import FilterConfigError

WORDS = ["good", "bad", "day", "you", "are", "a", "the", "##s", ".", "!"]
READER = Reader([*Reader.SPECIALS, *WORDS])
SHAPE = Shape(
    len(READER.vocabulary), width=64, heads=2, layers=2, inner=96, positions=32, hidden=16
)


def _network() -> Network:
    torch.manual_seed(0)
    network = Network(SHAPE, dropout=0.0).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
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
@given(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
def test_it_serves_what_was_trained(folder: Path, text: str) -> None:
    """Near the network that torch runs on floats, of the weights in the file."""
    network = _network()
    network.load_state_dict(read(folder / "classifier.safetensors"))
    ids = torch.tensor(READER([text]))
    with torch.inference_mode():
        logits = network(ids, torch.ones_like(ids, dtype=torch.bool))
    trained = torch.sigmoid(0.2 * logits)[0]
    (served,) = torch.tensor(_model(folder).score([text]))
    assert (trained - served).abs().max() < 0.3 * trained.std()


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), max_size=6))
def test_company_and_order_do_not_change_scores(folder: Path, texts: list[str]) -> None:
    model = _model(folder)
    alone = [model.score([text])[0] for text in texts]
    assert model.score(texts) == alone
    assert model.score(texts[::-1]) == alone[::-1]
    assert all(0 <= score <= 1 for row in alone for score in row)


def test_threads_do_not_change_scores() -> None:
    one, four = (Model(FOLDER, threads=threads) for threads in (1, 4))
    texts = ["The garden was quiet, and the baker opened his shop. " * n for n in range(60)]
    assert one.score(texts) == four.score(texts)


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


def test_weights_that_the_network_lacks_or_has_no_place_for_are_named(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "classifier.safetensors"
    (tmp_path / "vocabulary.txt").write_bytes((folder / "vocabulary.txt").read_bytes())
    with safe_open(folder / "classifier.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    save_file({**tensors, "more.weight": tensors["scores.bias"]}, path, metadata=about)
    with pytest.raises(FilterConfigError, match=r"no place for: more\.weight"):
        BuiltinModel(tmp_path).load()
    del tensors["layers.1.norm.bias"]
    save_file(tensors, path, metadata=about)
    with pytest.raises(FilterConfigError, match=r"not a built-in classifier: .*layers\.1\.norm"):
        BuiltinModel(tmp_path).load()


def test_rows_are_named(folder: Path) -> None:
    [row] = BuiltinModel(folder).compute(["good day"])
    assert tuple(row) == CATEGORIES
