"""A small decoder on sequences of tokens, which predicts the next token at every position."""

from __future__ import annotations

from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator
from torch import nn

from lossgeo.errors import UsageError
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models._activation import Activation, activation_module
from lossgeo.landscapes.task import Task

EMBEDDING_DEVIATION = 0.02  # GPT-2's; torch's 1 would start tied weights at outputs of size sqrt(width)


class _Attention(nn.Module):
    """Every position looks at itself and at those before it, once for each head."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        rows = self.inputs(h).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, width / heads)
        query, key, value = rows.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        outputs: torch.Tensor = self.outputs(mixed.transpose(1, 2).flatten(2))
        return outputs


class _Block(nn.Module):
    """h <- h + attention(n(h)),  h <- h + mlp(n(h))"""

    def __init__(self, width: int, heads: int, hidden: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads, dropout), nn.Dropout(dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            activation_module(activation),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.attention(h)
        deeper: torch.Tensor = h + self.mlp(h)
        return deeper


class _Decoder(nn.Module):
    """Embeddings of tokens and positions, blocks, and a linear layer that gives the outputs."""

    def __init__(self, model: Transformer, vocabulary: int, length: int, outputs: int) -> None:
        super().__init__()
        width = model.width
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)
        self.dropout = nn.Dropout(model.dropout)
        self.blocks = nn.Sequential(
            *(
                _Block(width, model.heads, model.mlp_ratio * width, model.activation, model.dropout)
                for _ in range(model.layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, outputs, bias=False)
        if model.tie_weights:
            self.outputs.weight = self.tokens.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        h = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        logits: torch.Tensor = self.outputs(self.norm(self.blocks(self.dropout(h))))
        return logits


@final
class Transformer(Model):
    """A causal decoder on tokens: layers of self-attention and a two-layer network, normalized before each.

    h_0 = E[x] + P,  h <- h + A_l(n(h)),  h <- h + M_l(n(h)) for every layer l,  f(x) = U n(h)

    E and P embed tokens and positions, both learned; n is layer normalization, A causal self-attention, M a network of
    one hidden layer. `tie_weights` makes U = E, one matrix that counts once in theta.

    Source: Vaswani et al. 2017; Radford et al. 2019 (GPT-2) for the decoder with normalization first; Press and Wolf
    2017 for tied weights.
    Errors: inputs that are no tokens; tied weights where outputs and vocabulary differ.
    """

    tokens: ClassVar[bool] = True

    width: int = Field(default=64, ge=1, le=65536, description="numbers that stand for a position")
    heads: int = Field(default=4, ge=1, le=1024, description="heads of every attention; they share the width out")
    layers: int = Field(default=2, ge=0, le=1000, description="blocks of attention and network")
    mlp_ratio: int = Field(default=4, ge=1, le=64, description="hidden units of every network, in widths")
    activation: Activation = Field(default="gelu", description="nonlinearity of every network")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of embeddings, attention and branches that training drops"
    )
    tie_weights: bool = Field(default=False, description="whether the output layer uses the embedding of tokens")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not share out among {self.heads} heads; use a multiple of them")
        return self

    def module(self, task: Task) -> nn.Module:
        assert task.vocabulary is not None  # `tokens`: the interface has refused all else
        if self.tie_weights and task.outputs != task.vocabulary:
            raise UsageError(
                f"tie_weights: {task.outputs} outputs cannot share the embedding of {task.vocabulary} tokens; leave it "
                "out"
            )
        return _Decoder(self, task.vocabulary, task.inputs[0], task.outputs)
