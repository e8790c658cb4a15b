"""Two linear layers and one example: where a learning rate beyond 2 / lambda_max does not diverge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from pydantic import Field

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface


@final
class Catapult(Surface):
    """L(u, v) = 1/2 f^2,  f = u . v / sqrt(width); theta is u, then v.

    Its curvature at the start, lambda = (|u|^2 + |v|^2) / width, is about 2. Gradient descent converges without a rise
    of the loss up to lr = 2 / lambda; up to 4 / lambda the loss first grows, until lambda has fallen; beyond, it
    diverges.

    Source: Lewkowycz et al. 2020, "The large learning rate phase of deep learning: the catapult mechanism", section 2.
    """

    width: int = Field(default=1000, ge=1, le=1_000_000, description="units of the hidden layer")

    @property
    def size(self) -> int:
        return 2 * self.width

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        u, v = theta[..., : self.width], theta[..., self.width :]
        return (u * v).sum(-1).square() * (0.5 / self.width)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A standard Gaussian."""
        return torch.randn(self.size, generator=generator, dtype=torch.float64)

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """f alone: the points of f = 0 are one valley."""
        f: torch.Tensor = (theta[: self.width] @ theta[self.width :])[None] / self.width**0.5
        return f

    def critical_points(self) -> Iterator[CriticalPoint]:
        """The origin, where the Hessian is zero, one of the minima: these are all points of f = 0."""
        yield CriticalPoint(torch.zeros(self.size, dtype=torch.float64), 0.0, 0, self.size)
