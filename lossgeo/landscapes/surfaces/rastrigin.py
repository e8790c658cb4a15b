"""Rastrigin's function: a bowl full of minima."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import final

import torch
from pydantic import Field

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface, uniform
from lossgeo.landscapes.surfaces._polished import polished

HALVES = range(-4, 5)  # the critical points of one coordinate that are listed lie near half of these: |x| <= 2.5
MOST = 3  # dimensions for which all of their combinations are listed; with more, the origin alone


@final
class Rastrigin(Surface):
    """f(x) = sum_i x_i^2 + depth (1 - cos 2 pi x_i), a minimum near every point of whole numbers.

    Source: Rastrigin 1974; Muehlenbein et al. 1991 for any dimension.
    """

    dimension: int = Field(default=2, ge=1, le=1_000_000, description="number of coordinates")
    depth: float = Field(default=10.0, ge=1, le=1e6, description="height of the waves, half of it")

    @property
    def size(self) -> int:
        return self.dimension

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        return (theta.square() + self.depth * (1 - torch.cos(2 * math.pi * theta))).sum(-1)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform in [-5.12, 5.12]^P."""
        return uniform(generator, self.dimension, -5.12, 5.12)

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """The absolute values, in their order."""
        return theta.abs().sort().values

    def critical_points(self) -> Iterator[CriticalPoint]:
        """The origin first; minima of one coordinate lie near whole numbers, maxima halfway between."""
        halves = sorted(HALVES, key=abs) if self.dimension <= MOST else [0]
        one = {half: float(polished(self.value, [half / 2])) for half in halves}
        for choice in itertools.product(halves, repeat=self.dimension if self.dimension <= MOST else 1):
            whole = choice if self.dimension <= MOST else (0,) * self.dimension
            theta = torch.tensor([one[half] for half in whole], dtype=torch.float64)
            yield CriticalPoint(theta, float(self.value(theta)), sum(half % 2 for half in whole))
