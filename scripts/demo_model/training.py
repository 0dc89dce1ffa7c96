"""The training loop: a clock for a budget, Muon and AdamW, checkpoints that a stop cannot spoil."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import (
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from scripts.demo_model.mix import Mix
from scripts.demo_model.muon import Muon

HOLD = 0.4  # share of the budget at full learning rate; linear to nothing after
WARM_UP_STEPS = 100


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of the model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int


SIZES = {
    "small": Size(hidden=256, layers=6, heads=8, kv_heads=4, head_dim=32, mlp=640),
    "base": Size(hidden=384, layers=8, heads=8, kv_heads=4, head_dim=48, mlp=1024),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How long, how much at a time, how fast."""

    minutes: float
    tokens_per_batch: int = 2048
    matrix_lr: float = 4e-3
    other_lr: float = 4e-3
    decay: float = 0.02
    save_minutes: float = 4.0
    seed: int = 1


def new_model(size: Size, tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    """A model of that shape, not trained."""
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        intermediate_size=size.mlp,
        tie_word_embeddings=True,
        sliding_window=None,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return MistralForCausalLM(config)


def save(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Writes a folder that `from_pretrained` reads: weights in bfloat16, tokenizer, defaults."""
    copy = MistralForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=256,
        do_sample=False,
    )
    copy.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def loss_of(model: MistralForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy. The vocabulary's logits are computed only where there is a label."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = labels >= 0
    logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits.float(), labels[wanted])


def _leads() -> bool:
    """Whether this is the process that writes and shows."""
    return not dist.is_initialized() or dist.get_rank() == 0


class Trainer:
    """Trains until the minutes of its settings are spent, over as many runs as it takes."""

    def __init__(
        self,
        model: MistralForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        mix: Mix,
        settings: Settings,
        out: Path,
    ) -> None:
        self.model, self.tokenizer, self.mix = model, tokenizer, mix
        self.settings, self.out = settings, out
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
        self._optimizers = [
            Muon(matrices, lr=settings.matrix_lr, decay=settings.decay),
            torch.optim.AdamW(others, lr=settings.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self._peaks = [settings.matrix_lr, settings.other_lr]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self._last = time.monotonic()

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def resume(self) -> None:
        """Goes on from the last checkpoint of the folder, if it has one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.model.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def checkpoint(self) -> Path:
        """Writes the state to go on from, and a loadable folder that `latest` then points at."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self._optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "settings": asdict(self.settings),
        }
        torch.save(state, self.out / "state.new")
        (self.out / "state.new").replace(self.out / "state.pt")
        folder = self.out / f"step-{self.step:06}"
        save(self.model, self.tokenizer, folder)
        link = self.out / "latest.new"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.out / "latest")
        return folder

    def run(self) -> Iterator[Path]:
        """Trains; yields each checkpoint's folder just after it is written, the last at the end."""
        self.model.train()
        bar = tqdm(
            total=round(60 * self.settings.minutes),
            unit="s",
            initial=round(self.seconds),
            disable=not _leads(),
        )
        self._last, saved = time.monotonic(), self.seconds
        average = None
        while self.progress < 1:
            rank = dist.get_rank() if dist.is_initialized() else 0
            rng = Random(f"{self.settings.seed} {self.step} {rank}")
            size = self.settings.tokens_per_batch
            for ids, labels in self.mix.batches(rng, self.progress, tokens=size):
                loss = self._update(ids, labels)
                average = loss if average is None else 0.98 * average + 0.02 * loss
                bar.update(round(self.seconds) - bar.n)
                bar.set_postfix(step=self.step, loss=f"{average:.3f}", tokens=self.tokens)
                if self.seconds - saved > 60 * self.settings.save_minutes:
                    saved = self.seconds
                    if _leads():
                        yield self.checkpoint()
                if self.progress >= 1:
                    break
        bar.close()
        if _leads():
            yield self.checkpoint()

    def _rate(self) -> float:
        decayed = min(1.0, (1 - self.progress) / (1 - HOLD))
        return min(decayed, (self.step + 1) / WARM_UP_STEPS)

    def _update(self, ids: Tensor, labels: Tensor) -> float:
        device = self.model.device
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * self._rate()
        # On a CPU bfloat16 is emulated more often than not: float32 there.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(self.model, ids.to(device), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        self._agree(loss, ids.numel())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _agree(self, loss: Tensor, tokens: int) -> None:
        """Averages gradients over the processes, and gives all the same clock and token count."""
        now = time.monotonic()
        spent, self._last = now - self._last, now
        counts = torch.tensor([spent, tokens], dtype=torch.float32, device=loss.device)
        if dist.is_initialized():
            world = dist.get_world_size()
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in grads] + [counts])
            dist.all_reduce(flat)
            counts = flat[-2:] / torch.tensor([world, 1], device=loss.device)
            at = 0
            for g in grads:
                g.copy_(flat[at : at + g.numel()].view_as(g) / world)
                at += g.numel()
        self.seconds += float(counts[0])
        self.tokens += int(counts[1])
