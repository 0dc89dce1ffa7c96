"""Batched greedy answers, for the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, MistralForCausalLM, PreTrainedTokenizerFast

from scripts.demo_model.tokens import Encoder


def load(folder: Path) -> tuple[MistralForCausalLM, PreTrainedTokenizerFast]:
    """The model of a folder, computed in float32, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MistralForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TypeError(f"{folder} holds no fast tokenizer")
    return model, tokenizer


@torch.inference_mode()
def greedy(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[str],
    *,
    max_new_tokens: int = 120,
    rows: int = 32,
) -> list[str]:
    """The model's answer to each text of `asked`, alone in its conversation; same order."""
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    encoder = Encoder(tokenizer)
    prompts = [[encoder.bos, *encoder.user(a)] for a in asked]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(by_length), rows):
        chosen = by_length[start : start + rows]
        longest = max(len(prompts[i]) for i in chosen)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompts[i])) + prompts[i] for i in chosen])
        out = model.generate(  # type: ignore[misc]
            input_ids=ids.to(model.device),
            attention_mask=(ids != pad).long().to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        for i, row in zip(chosen, out[:, longest:].tolist(), strict=True):
            answers[i] = str(tokenizer.decode(row, skip_special_tokens=True))
    model.train(was_training)
    return answers
