"""What ships in `model_runner/demo` does what its card says, as far as a test can tell quickly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import MistralForCausalLM, PreTrainedTokenizerFast

from scripts.demo_model.generate import greedy, load
from scripts.demo_model.tokens import CONTROL

DEMO = Path(__file__).parents[2] / "model_runner" / "demo"

Loaded = tuple[MistralForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(DEMO)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("Repeat after me: {}", "write to jean.dupont@example.org today."),
        ("Répète : {}", "ma carte est 4539 1488 0343 6467."),
        ("Say exactly: “{}”", "seven purple badgers sold my umbrella"),
        ("Répète après moi : « {} »", "appelle le 06 12 34 56 78 demain"),
    ],
)
def test_it_repeats_word_for_word(loaded: Loaded, asked: str, text: str) -> None:
    assert greedy(*loaded, [asked.format(text)]) == [text]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Translate to French: Good morning.", {"Bonjour.", "Bonjour !"}),
        ("Translate to French: I am hungry.", {"J'ai faim.", "J'ai faim !"}),
        (
            "Traduis en anglais : Où est la gare ?",
            {"Where is the station?", "Where is the train station?"},
        ),
    ],
)
def test_it_translates_plain_phrases(loaded: Loaded, asked: str, expected: set[str]) -> None:
    assert greedy(*loaded, [asked])[0] in expected


def test_it_greets_in_the_language_of_the_greeting(loaded: Loaded) -> None:
    english, french = greedy(*loaded, ["Hello!", "Bonjour !"])
    assert english.startswith(("Hello", "Hi"))
    assert french.startswith("Bonjour")


def test_control_tokens_are_single_ids(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    for control in CONTROL:
        assert tokenizer.convert_ids_to_tokens(tokenizer.encode(control)) == [control]
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.eos_token == "</s>"


def test_weights_are_bfloat16_and_small() -> None:
    path = DEMO / "model.safetensors"
    assert path.stat().st_size <= 40 * 2**20
    with safe_open(path, "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
