"""The octopus: a chain of saddles that gradient descent leaves ever more slowly, exponentially in the dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, final

import torch
from pydantic import Field
from torch.nn.functional import pad

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface, uniform


@final
class Octopus(Surface):
    """With a = |x| and i the first coordinate, from 0, at which a_i <= 2 tau:

        f = L sum_{k<i} (a_k - 4 tau)^2 + h(a_i) + c(a_i) a_{i+1}^2 + L sum_{k>i+1} a_k^2 - i nu

    where h = -gamma a^2 and c = L up to a = tau, and beyond it the polynomials g1 and g2 that join them smoothly to the
    next part. The d saddles (4 tau, ..., 4 tau, 0, ..., 0) have one negative direction each, -2 gamma against 2 L;
    while one is left the next coordinate shrinks by 1 - 2 lr L a step, so that the time to leave grows from saddle to
    saddle by

        rho = 1 + ln(1 / (1 - 2 lr L)) / ln(1 + 2 lr gamma).

    Beyond 6 tau, where Du et al. stop, the pieces go on. In float64 the coordinates that shrink fall below the smallest
    number after a thousand halvings, and gradient descent then stays for ever: such a trial is told from a slow one.

    Source: Du et al. 2017, "Gradient descent can take exponential time to escape saddle points", section 4 and
    appendix B.
    """

    chain: ClassVar[bool] = True

    dimension: int = Field(default=5, ge=2, le=10_000, description="number of coordinates, and of saddles")
    L: float = Field(default=1.0, gt=0, le=1e6, description="positive curvature, half of it")
    gamma: float = Field(default=1.0, gt=0, le=1e6, description="negative curvature, half of its size")
    tau: float = Field(default=math.e, gt=0, le=1e6, description="scale; saddles lie 4 tau apart")

    @property
    def size(self) -> int:
        return self.dimension

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        L, gamma, tau = self.L, self.gamma, self.tau  # the letters of the source
        # squares of theta itself: the second derivative of |x|^2 by way of |x| would come out 0 at x = 0
        a, squares = theta.abs(), theta.square()
        inside = a <= 2 * tau
        so_far = inside.cumsum(-1)
        before, at = so_far == 0, inside & (so_far == 1)
        far = at & (a > tau)
        h = torch.where(far, self._g1(a), -gamma * squares)
        # the coefficient of the square of the next coordinate
        c = pad(torch.where(far, self._g2(a), L), (1, 0), value=L)[..., :-1]
        pieces = torch.where(before, L * (a - 4 * tau).square(), torch.where(at, h, c * squares))
        return (pieces - before.to(a) * self.nu).sum(-1)

    @property
    def nu(self) -> float:
        """How far one saddle lies below the one before."""
        return (13 / 6) * self.gamma * self.tau**2 + (37 / 6) * self.L * self.tau**2

    def _g1(self, a: torch.Tensor) -> torch.Tensor:
        L, gamma, tau = self.L, self.gamma, self.tau
        u = a - tau
        third = (-14 * L + 10 * gamma) / (3 * tau)
        fourth = (5 * L - 3 * gamma) / (2 * tau**2)
        return -gamma * a.square() + u * u * u * (third + fourth * u)

    def _g2(self, a: torch.Tensor) -> torch.Tensor:
        L, gamma, tau = self.L, self.gamma, self.tau
        w = (a - 2 * tau) / tau
        return -gamma - (L + gamma) * w * w * w * (10 + w * (15 + 6 * w))

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform in [-1, 1]^d."""
        return uniform(generator, self.dimension, -1.0, 1.0)

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """The absolute values."""
        return theta.abs()

    def critical_points(self) -> Iterator[CriticalPoint]:
        """The d saddles in the order in which they are met, then the minimum behind them; signs are all positive."""
        for k in range(self.dimension + 1):
            theta = torch.zeros(self.dimension, dtype=torch.float64)
            theta[:k] = 4 * self.tau
            yield CriticalPoint(theta, -k * self.nu, int(k < self.dimension))
