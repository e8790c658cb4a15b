"""The spherical p-spin glass: a random polynomial on a sphere, whose saddles are counted by theory."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.critical_point import Theory
from lossgeo.landscapes.surfaces import Surface
from lossgeo.randomness import generator as named_generator

MOST = 10_000_000  # couplings


@final
class SphericalPSpin(Surface):
    """H(s) = N^(-(p-1)/2) sum J_{i1..ip} s_i1 ... s_ip on |s|^2 = N, J standard Gaussian.

    f(x) = H(sqrt(N) x / |x|) + 1/2 (|x| - sqrt(N))^2: all its critical points lie on the sphere, on which its gradient
    is the Riemannian one, and its Hessian at a critical point the Riemannian one beside a one for the radius. (Without
    the second term Newton's step would be x itself, away from the sphere.) At energy u = H / N a critical point has a
    share of alpha(u) = 1/2 + (y sqrt(1 - y^2) + arcsin y) / pi negative eigenvalues along the sphere, y = u / E_inf,
    E_inf = 2 sqrt((p-1)/p), for large N.

    Source: Auffinger, Ben Arous & Cerny 2013, equation 1.1; Bray & Dean 2007 for the index.
    Cost: N^p multiply-adds a point.
    """

    p: int = Field(default=3, ge=2, le=6, description="spins in an interaction")
    dimension: int = Field(default=20, ge=2, le=1000, description="number of spins N")
    seed: int = Field(default=0, ge=0, description="draws the couplings")

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if self.dimension**self.p > MOST:
            raise ValueError(f"{self.dimension}^{self.p} couplings are too many; lower `dimension` or `p`")
        return self

    @property
    def size(self) -> int:
        return self.dimension

    @cached_property
    def _couplings(self) -> torch.Tensor:
        """(N, N^(p-1)) float64"""
        stream = named_generator(self.seed, "couplings")
        couplings = torch.randn(self.dimension, self.dimension ** (self.p - 1), generator=stream, dtype=torch.float64)
        scaled: torch.Tensor = couplings * self.dimension ** (-(self.p - 1) / 2)
        return scaled

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        radius = theta.square().sum(-1, keepdim=True).sqrt()
        s = theta * (self.dimension**0.5 / radius)
        left = self._couplings.to(theta)
        for number in range(self.p):
            # the leading index of what is left, summed against s, element by element: rows do not see each other
            left = (left.reshape(*(s.shape if number else s.shape[-1:]), -1) * s.unsqueeze(-1)).sum(-2)
        outside: torch.Tensor = 0.5 * (radius - self.dimension**0.5).square()
        return (left + outside).squeeze(-1)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform on the sphere."""
        normal = torch.randn(self.dimension, generator=generator, dtype=torch.float64)
        start: torch.Tensor = normal * (self.dimension**0.5 / torch.linalg.vector_norm(normal))
        return start

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """theta, for an even p up to its sign."""
        return theta if self.p % 2 else theta * theta[theta.abs().argmax()].sign()

    def theory(self, loss: float, index: float) -> Theory:
        """The mean index at this energy, alpha(u) (N - 1)."""
        lowest = 2 * ((self.p - 1) / self.p) ** 0.5  # E_inf
        y = max(-1.0, min(1.0, loss / self.dimension / lowest))
        share = 0.5 + (y * math.sqrt(1 - y * y) + math.asin(y)) / math.pi
        return Theory(loss, share * (self.dimension - 1))
