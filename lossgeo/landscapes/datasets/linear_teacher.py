"""Targets from a linear map with given singular values: what a linear network learns mode by mode."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.datasets import Dataset, Kind, Raw

Strength = Annotated[float, Field(gt=0, le=1e6)]


@final
class LinearTeacher(Dataset):
    """y = U diag(s) V' x + noise * e, with x, e ~ N(0, 1) and U, V random with orthonormal columns.

    With `components` equal to `dimension` the training inputs are exactly white, and with `standardize: false` the
    targets keep their strength: then the singular values of E y x' are s, but for sampling.

    Source: Saxe, McClelland & Ganguli 2014, section 1.
    """

    kind: ClassVar[Kind] = "values"

    singular_values: tuple[Strength, ...] = Field(default=(4.0, 2.0, 1.0), min_length=1, description="s")
    dimension: int = Field(default=8, ge=1, le=100_000, description="numbers in an input")
    outputs: int = Field(default=4, ge=1, le=100_000, description="values to predict")
    examples: int = Field(default=1000, ge=2, le=10_000_000, description="examples, train and test together")
    noise: float = Field(default=0.0, ge=0, le=1e6, description="standard deviation of the noise on the values")

    @model_validator(mode="after")
    def _room(self) -> Self:
        if len(self.singular_values) > min(self.dimension, self.outputs):
            raise ValueError(
                f"{len(self.singular_values)} singular values do not fit a map from {self.dimension} to {self.outputs}"
            )
        return self

    def read(self, generator: torch.Generator) -> Raw:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        count = len(self.singular_values)
        left, right = (torch.linalg.qr(normal(size, count))[0] for size in (self.outputs, self.dimension))
        inputs = normal(self.examples, self.dimension)
        strengths = torch.tensor(self.singular_values, dtype=torch.float64)
        targets = ((inputs @ right) * strengths) @ left.T + self.noise * normal(self.examples, self.outputs)
        return Raw(inputs.numpy(), targets.numpy(), f"lossgeo linear_teacher, seed {self.seed}")
