"""Tiny random models, with a byte-level tokenizer of their own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mistral_common
import torch
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
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


def spelling(folder: Path, said: Sequence[str | int]) -> Path:
    """A model with Mistral's tokenizer v3 that writes one thing, whatever it is asked.

    said: control tokens, and texts between them. No token may come twice: the one before decides.
    """
    data = Path(mistral_common.__file__).parent / "data"
    name = next(data.glob("*.model.v3")).name
    shutil.copy(data / name, folder / "tokenizer.model.v3")
    raw: Any = MistralTokenizer.from_file(data / name).instruct_tokenizer.tokenizer
    ids: list[int] = []
    for part in said:
        ids += [part] if isinstance(part, int) else raw.encode(part, bos=False, eos=False)
    ids.append(raw.eos_id)
    assert len(set(ids)) == len(ids), [raw.id_to_piece(i) for i in ids]
    config = MistralConfig(
        vocab_size=raw.n_words,
        hidden_size=64,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=raw.bos_id,
        eos_token_id=raw.eos_id,
        tie_word_embeddings=False,
    )
    model: Any = MistralForCausalLM(config)
    layer, before = model.model.layers[0], 0
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0  # behind anything else comes the first
        for place, token in enumerate(ids):
            model.lm_head.weight[token, before] = 10.0
            before = place + 1
            model.model.embed_tokens.weight[token] = 0.0
            model.model.embed_tokens.weight[token, before] = 1.0
    model.save_pretrained(folder)
    return folder
