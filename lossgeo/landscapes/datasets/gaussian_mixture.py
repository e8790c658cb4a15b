"""Gaussian clusters: classes whose overlap is known."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class GaussianMixture(Dataset):
    """Equally many examples of each class, x ~ N(mu_y, 1), around random centers mu ~ N(0, separation^2 / 2 dimension).

    Two centers lie `separation` apart in root mean square, in standard deviations of a cluster, in any dimension. For
    two clusters at exactly that distance the best possible error is Phi(-separation / 2).
    """

    kind: ClassVar[Kind] = "classes"

    clusters: int = Field(default=4, ge=2, le=10_000, description="Gaussian clusters, each a class")
    dimension: int = Field(default=10, ge=1, le=1_000_000, description="numbers in an input")
    examples: int = Field(default=1000, ge=2, le=10_000_000, description="examples, train and test together")
    separation: float = Field(default=4.0, ge=0, le=1e6, description="distance of centers, in deviations of a cluster")

    @model_validator(mode="after")
    def _every_cluster_has_an_example(self) -> Self:
        if self.examples < self.clusters:
            raise ValueError(f"{self.examples} examples cannot fill {self.clusters} clusters; raise `examples`")
        return self

    def read(self, generator: torch.Generator) -> Raw:
        shape = (self.clusters, self.dimension)
        centers = torch.randn(shape, generator=generator, dtype=torch.float64) * (
            self.separation / sqrt(2 * self.dimension)
        )
        targets = torch.arange(self.examples) % self.clusters
        noise = torch.randn(self.examples, self.dimension, generator=generator, dtype=torch.float64)
        inputs = centers[targets] + noise
        return Raw(inputs.numpy(), targets.numpy(), f"lossgeo gaussian_mixture, seed {self.seed}")
