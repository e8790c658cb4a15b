"""A saddle that its noise is centered at: whether SGD leaves it depends on where the noise points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces._walled import Walled


@final
class NoisySaddle(Walled):
    """The mean of f_i(x) = f(x) + noise xi_i (v . x), f the walled saddle, xi_i = +-1 in equal numbers.

    At the origin the mean gradient is zero, and that of one example is noise xi_i v: gradient descent stays, and SGD
    leaves if v has a component along a negative direction.

    Source: Daneshmand et al. 2018, "Escaping saddles with stochastic gradients", the correlated negative curvature
    assumption.
    """

    noise: float = Field(default=1.0, ge=0, description="size of an example's gradient at the origin")
    along: Literal["negative", "positive", "all"] = Field(
        default="negative", description="the directions of v: those of negative curvature, of positive, or all"
    )
    examples: int = Field(default=64, ge=2, le=1_000_000, multiple_of=2, description="number of functions f_i")

    def tilts(self) -> torch.Tensor:
        eigenvalues = self.eigenvalues
        directions = {"negative": eigenvalues < 0, "positive": eigenvalues > 0, "all": eigenvalues != 0}[self.along]
        v = directions.double()
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(self.examples // 2)
        unit: torch.Tensor = v / torch.linalg.vector_norm(v).clamp(min=1.0)  # zero where no direction is of the kind
        return self.noise * signs[:, None] * unit

    def critical_points(self) -> Iterator[CriticalPoint]:
        yield from self.walled_points()

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """The saddle itself."""
        return torch.zeros(self.size, dtype=torch.float64)
