"""Critical points with random Hessians: how often is one a minimum, if nothing is known but symmetry?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface
from lossgeo.randomness import generator as named_generator

MOST = 20_000_000  # elements of all Hessians
CELL = 2.0  # distance of neighboring points


@final
class RandomHessians(Surface):
    """f(x) = 1/2 (1 - u_1^2)^3 u . H_k u,  u = x - 2 k e_1 with |u_1| <= 1: point k stands at 2 k e_1.

    H_k = (A + A') / sqrt(2), A standard Gaussian: a draw from the Gaussian orthogonal ensemble, and the Hessian at its
    point to the last bit. Between the points f and two derivatives vanish, and beyond the last ones f does. All
    eigenvalues are positive with probability 1/2, (2 - sqrt(2)) / 4 and (pi - 2 sqrt(2)) / (4 pi) in 1, 2 and 3
    dimensions, and exp(-(ln 3 / 4) N^2) to leading order in N: they repel each other, so that signs are dependent.

    Source: Dean & Majumdar 2006, "Large deviations of extreme eigenvalues of random matrices".
    """

    dimension: int = Field(default=2, ge=1, le=1000, description="N")
    count: int = Field(default=1000, ge=1, le=MOST, description="number of points")
    seed: int = Field(default=0, ge=0, description="draws the Hessians")

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if self.count * self.dimension**2 > MOST:
            raise ValueError(f"{self.count} matrices of {self.dimension}^2 elements are too many; lower `count`")
        return self

    @property
    def size(self) -> int:
        return self.dimension

    @cached_property
    def _hessians(self) -> torch.Tensor:
        """(count, N, N) float64"""
        stream = named_generator(self.seed, "hessians")
        shape = (self.count, self.dimension, self.dimension)
        drawn = torch.randn(shape, generator=stream, dtype=torch.float64)
        return (drawn + drawn.mT) / 2**0.5

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        number = (theta[..., 0].detach() / CELL).round()
        inside = (number >= 0) & (number < self.count)
        number = number.clamp(0, self.count - 1)
        hessian = self._hessians.to(theta)[number.long()]  # (..., N, N)
        first = theta[..., :1] - CELL * number.unsqueeze(-1)
        u = torch.cat([first, theta[..., 1:]], dim=-1)
        form = 0.5 * ((hessian * u.unsqueeze(-1)).sum(-2) * u).sum(-1)
        window = (1 - first.squeeze(-1).square()) ** 3
        return torch.where(inside, form * window, 0.0)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Exactly at one of the points, each as likely."""
        return self._center(int(torch.randint(self.count, (), generator=generator)))

    def _center(self, number: int) -> torch.Tensor:
        center = torch.zeros(self.dimension, dtype=torch.float64)
        center[0] = CELL * number
        return center

    def critical_points(self) -> Iterator[CriticalPoint]:
        """All of them, in their row."""
        for number, hessian in enumerate(self._hessians):
            index = int((torch.linalg.eigvalsh(hessian) < 0).sum())
            yield CriticalPoint(self._center(number), 0.0, index)
