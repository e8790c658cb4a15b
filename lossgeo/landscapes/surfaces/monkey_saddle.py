"""The monkey saddle: three ways down, and no curvature at all where they meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface


@final
class MonkeySaddle(Surface):
    """f(x, y) = x^3 - 3 x y^2: unbounded below, degenerate at the origin, its only critical point.

    Down the negative x axis gradient descent takes (1/x0 - 1/r) / (3 lr) steps from x0 to r.
    Source: Dauphin et al. 2014, figure 2.
    """

    @property
    def size(self) -> int:
        return 2

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        x, y = theta[..., 0], theta[..., 1]
        return x * (x * x - 3 * (y * y))

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A Gaussian of deviation 0.1."""
        return 0.1 * torch.randn(2, generator=generator, dtype=torch.float64)

    def critical_points(self) -> Iterator[CriticalPoint]:
        """The way out that is given is one of three."""
        yield CriticalPoint(
            torch.zeros(2, dtype=torch.float64), 0.0, 0, 2, way_out=torch.tensor([-1.0, 0.0], dtype=torch.float64)
        )
