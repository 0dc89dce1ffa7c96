"""Tiny random models, with a byte-level tokenizer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
WORDS = (" yes no the answer is a house on the hill déjà vu été cœur — € 👩‍🔬 你好 ",) * 4
CONTEXT = 256


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["[INST]", "[/INST]"],
        chat_template=TEMPLATE,
    )


PIECES = [
    "\u2581",
    *"abcdefghijklmnopqrstuvwxyz[]/<>|ISTN_\n.",
    "\u2581a",
    "\u2581he",
    "ab",
    "h",
    "he",
]


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """As converted from sentencepiece: byte fallback, and a space put before the text.

    scheme: "first" (of the string), "always" (each part), or "prepend" (likewise, by a normalizer).
    """
    vocabulary = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    index = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    merges = [("\u2581", "a"), ("h", "e"), ("\u2581", "he"), ("a", "b")]
    raw = Tokenizer(models.BPE(index, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "prepend":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        raw.normalizer = normalizers.Sequence(steps)
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save(
    folder: Path,
    *,
    mixtral: bool = False,
    ascii_only: bool = False,
    eos: Sequence[int] = (2,),
    words: PreTrainedTokenizerFast | None = None,
    vocabulary: int | None = None,
) -> Path:
    """A model of two layers. ascii_only: it writes neither special tokens nor parts of characters.

    The sliding window is shorter than what tests write, so that it matters.
    """
    words = words or tokenizer()
    torch.manual_seed(7)
    options: dict[str, Any] = {
        "vocab_size": vocabulary or len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "sliding_window": 16,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": list(eos),
    }
    model = (
        MixtralForCausalLM(MixtralConfig(**options, num_local_experts=4))
        if mixtral
        else MistralForCausalLM(MistralConfig(**options))
    )
    if ascii_only:
        bad = [
            i for i in range(len(words)) if i < len(SPECIAL) or not str(words.decode([i])).isascii()
        ]
        with torch.no_grad():
            model.lm_head.weight[bad] = 0.0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
