"""Targets from a random network: a regression whose global minimum is known to be reachable."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, final

import torch
from pydantic import Field

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class TeacherStudent(Dataset):
    """y = A tanh(W x) + noise * e, with x, e ~ N(0, 1), W ~ N(0, 1/dimension) and A ~ N(0, 1/width).

    Without noise a student `mlp` of one hidden tanh layer, at least as wide and with biases, can reach loss 0:
    `standardize` only scales and shifts what its first and last layer can undo.

    Source: Gardner and Derrida 1989 for the setting; Saad and Solla 1995 for networks with a hidden layer.
    """

    kind: ClassVar[Kind] = "values"

    dimension: int = Field(default=10, ge=1, le=1_000_000, description="numbers in an input")
    width: int = Field(default=8, ge=1, le=1_000_000, description="hidden units of the teacher")
    outputs: int = Field(default=1, ge=1, le=1_000_000, description="values to predict")
    examples: int = Field(default=1000, ge=2, le=10_000_000, description="examples, train and test together")
    noise: float = Field(
        default=0.0, ge=0, le=1e6, description="standard deviation of the noise on the teacher's values"
    )

    def read(self, generator: torch.Generator) -> Raw:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        hidden = normal(self.width, self.dimension) / sqrt(self.dimension)  # W
        readout = normal(self.outputs, self.width) / sqrt(self.width)  # A
        inputs = normal(self.examples, self.dimension)
        targets = torch.tanh(inputs @ hidden.T) @ readout.T + self.noise * normal(self.examples, self.outputs)
        return Raw(inputs.numpy(), targets.numpy(), f"lossgeo teacher_student, seed {self.seed}")
