"""A saddle without negative curvature: the way down begins with the fourth derivative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface


@final
class QuarticSaddle(Surface):
    """f(x, y) = x^2 / 2 - y^4 / 4: unbounded below, degenerate at the origin, its only critical point.

    Gradient descent takes (1/y0^2 - 1/r^2) / (2 lr) steps from y0 to r.
    Source: that law follows from dy/dt = y^3.
    """

    @property
    def size(self) -> int:
        return 2

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        x, y = theta[..., 0], theta[..., 1]
        return 0.5 * (x * x) - 0.25 * (y * y) * (y * y)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A Gaussian of deviation 0.1."""
        return 0.1 * torch.randn(2, generator=generator, dtype=torch.float64)

    def critical_points(self) -> Iterator[CriticalPoint]:
        yield CriticalPoint(
            torch.zeros(2, dtype=torch.float64), 0.0, 0, 1, way_out=torch.tensor([0.0, 1.0], dtype=torch.float64)
        )
