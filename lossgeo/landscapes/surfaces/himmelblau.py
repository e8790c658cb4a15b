"""Himmelblau's function: all nine critical points are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface, uniform
from lossgeo.landscapes.surfaces._polished import polished

# (near which point, index): four minima of loss 0, four saddles, one maximum
NEAR = (
    ([3.0, 2.0], 0),
    ([-2.805, 3.131], 0),
    ([-3.779, -3.283], 0),
    ([3.584, -1.848], 0),
    ([0.087, 2.884], 1),
    ([-3.073, -0.081], 1),
    ([3.385, 0.074], 1),
    ([-0.128, -1.954], 1),
    ([-0.271, -0.923], 2),
)


@final
class Himmelblau(Surface):
    """f(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2.

    Source: Himmelblau 1972, Applied Nonlinear Programming.
    """

    @property
    def size(self) -> int:
        return 2

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        x, y = theta[..., 0], theta[..., 1]
        return (x * x + y - 11).square() + (x + y * y - 7).square()

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform in [-5, 5]^2."""
        return uniform(generator, 2, -5.0, 5.0)

    def critical_points(self) -> Iterator[CriticalPoint]:
        for near, index in NEAR:
            theta = polished(self.value, near)
            yield CriticalPoint(theta, float(self.value(theta)), index)
