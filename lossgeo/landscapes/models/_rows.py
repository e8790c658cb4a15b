"""A chain of layers that sees each example as one row of numbers."""

from __future__ import annotations

import torch
from torch import nn


class Rows(nn.Sequential):
    """Layers on inputs (B, features); images and signals are flattened first.

    A branch on the rank instead of an nn.Flatten in front: on rows it costs nothing, on images it saves a module call,
    and the parameters have the same names on both.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs if inputs.ndim == 2 else inputs.flatten(1)
        for layer in self:
            rows = layer(rows)
        return rows
