"""Refiners: from a point to a critical point near it, each file one method. They look for small gradients, not for low
losses, so that saddles are found as readily as minima.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import Field

from lossgeo.components.component import Component
from lossgeo.curvature.spectral.linear_operator import LinearOperator

Gradient = Callable[[torch.Tensor], torch.Tensor]  # theta (P,) -> g (P,)
Curvature = Callable[[torch.Tensor], LinearOperator]  # theta (P,) -> the Hessian there


class Refined(NamedTuple):
    """Where a search ended."""

    theta: torch.Tensor  # (P,)
    iterations: int


class Refiner(Component):
    """A search for a point at which the gradient vanishes."""

    iterations: int = Field(default=60, ge=1, le=100_000, description="at the most")

    @abstractmethod
    def search(self, gradient: Gradient, hessian: Curvature, start: torch.Tensor, tolerance: float) -> Refined:
        """From `start` (P,) until |g| <= tolerance, or no step makes it smaller, or the iterations are used up."""
