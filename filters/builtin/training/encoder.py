"""The built-in classifier's network: a small BERT encoder, two pools, one score per category.

Encoder: Devlin et al. 2019 (BERT, post-norm, learned positions), at the size of MiniLM (Wang et al.
2020): width 384, 12 heads, 6 layers. Head: mean and maximum over tokens, one hidden layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from filters.builtin.categories import CATEGORIES


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network. `positions`: tokens that a text has at most."""

    vocabulary: int
    width: int = 384
    heads: int = 12
    layers: int = 6
    inner: int = 1536
    positions: int = 256
    hidden: int = 256
    categories: int = len(CATEGORIES)


class Layer(nn.Module):
    """One transformer layer, [batch, tokens, width] -> the same."""

    def __init__(self, shape: Shape, *, dropout: float) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, eps=1e-12)
        self.widen = nn.Linear(width, shape.inner)
        self.narrow = nn.Linear(shape.inner, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """mask: bool [batch, 1, 1, tokens], true where there is a token."""
        batch, tokens, width = states.shape
        heads = self.query_key_value(states).view(batch, tokens, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = self.attended(mixed.transpose(1, 2).reshape(batch, tokens, width))
        states = self.attended_norm(states + self._drop(mixed))
        inner = self.narrow(functional.gelu(self.widen(states)))
        normed: Tensor = self.norm(states + self._drop(inner))
        return normed

    def _drop(self, states: Tensor) -> Tensor:
        return functional.dropout(states, self.dropout, self.training)


class Network(nn.Module):
    """Token ids -> one logit for each category."""

    def __init__(self, shape: Shape, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(shape, dropout=dropout) for _ in range(shape.layers))
        self.hidden = nn.Linear(2 * shape.width, shape.hidden)
        self.scores = nn.Linear(shape.hidden, shape.categories)

    @property
    def device(self) -> torch.device:
        return self.tokens.weight.device

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: int [batch, tokens]; mask: bool, the same. Return logits [batch, categories]."""
        mean, top = self.pool(self.encode(ids, mask), mask)
        pooled = functional.dropout(torch.cat([mean, top], -1), self.dropout, self.training)
        logits: Tensor = self.scores(functional.gelu(self.hidden(pooled)))
        return logits

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The states of the last layer, [batch, tokens, width]."""
        states: Tensor = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            states = layer(states, mask[:, None, None, :])
        return states

    @staticmethod
    def pool(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and maximum over a text's tokens, each [batch, width]."""
        there = mask[..., None]
        mean = (states * there).sum(1) / there.sum(1)
        return mean, states.masked_fill(~there, -1e4).amax(1)
