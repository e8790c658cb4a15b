"""The two ends of a spectrum as single numbers, and a spectrum by its signs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator


class Extremes(NamedTuple):
    """The smallest and the largest eigenvalue, each with the solver's bound of its error."""

    low: float
    low_error: float
    high: float
    high_error: float

    @property
    def scale(self) -> float:
        """The largest |eigenvalue|."""
        return max(abs(self.low), abs(self.high))


class Inertia(NamedTuple):
    """How many eigenvalues are negative, zero and positive."""

    negative: int
    zero: int
    positive: int


def extremes(operator: LinearOperator, generator: torch.Generator, tolerance: float, budget: int) -> Extremes:
    """Both ends by Lanczos from a random vector; costs at most `budget` products."""
    krylov = Krylov(operator, direction(operator, generator))
    ends = lanczos(krylov, 1, 1, tolerance, budget, generator, operator.room)
    bottom, top = ends.bottom, ends.top
    return Extremes(float(bottom.values[0]), float(bottom.bounds[0]), float(top.values[0]), float(top.bounds[0]))


def inertia(values: np.ndarray, zero: float) -> Inertia:
    """Of eigenvalues (P,), zero being those up to `zero` in size."""
    negative, positive = int((values < -zero).sum()), int((values > zero).sum())
    return Inertia(negative, len(values) - negative - positive, positive)
