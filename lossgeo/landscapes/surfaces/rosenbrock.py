"""Rosenbrock's valley, curved and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from pydantic import Field

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface, uniform
from lossgeo.landscapes.surfaces._polished import polished

SECOND = range(4, 8)  # dimensions in which a second minimum, near (-1, 1, ..., 1), is known


@final
class Rosenbrock(Surface):
    """f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, the minimum at (1, ..., 1).

    Source: Rosenbrock 1960; for the second minimum Shang & Qiu 2006, "A note on the extended Rosenbrock function".
    """

    dimension: int = Field(default=2, ge=2, le=1_000_000, description="number of coordinates")

    @property
    def size(self) -> int:
        return self.dimension

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        x, following = theta[..., :-1], theta[..., 1:]
        return (100 * (following - x * x).square() + (1 - x).square()).sum(-1)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform in [-2, 2]^P."""
        return uniform(generator, self.dimension, -2.0, 2.0)

    def critical_points(self) -> Iterator[CriticalPoint]:
        yield CriticalPoint(torch.ones(self.dimension, dtype=torch.float64), 0.0, 0)
        if self.dimension in SECOND:
            theta = polished(self.value, [-1.0, *[1.0] * (self.dimension - 1)])
            yield CriticalPoint(theta, float(self.value(theta)), 0)
