"""What a dataset asks of a model: the shape of an input, the number of outputs, the kind of target; and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Targets = Literal["classes", "values"]


@dataclass(frozen=True)
class Task:
    """The contract between a dataset and a model."""

    inputs: tuple[int, ...]  # one example: (features,), (channels, length) or (channels, height, width)
    outputs: int  # numbers the model returns for an example: classes, or values to predict
    targets: Targets


class Examples(NamedTuple):
    """N examples; indexing and slicing go through `rows`."""

    inputs: torch.Tensor  # (N, *task.inputs), floating point
    targets: torch.Tensor  # (N,) int64 classes, or (N, outputs) floating point values

    @property
    def size(self) -> int:
        return int(self.inputs.shape[0])

    def rows(self, which: slice | torch.Tensor) -> Examples:
        """The examples that a slice (without copying) or a tensor of indices (with copying) picks."""
        return Examples(self.inputs[which], self.targets[which])
