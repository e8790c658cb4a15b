"""What the walled saddles share: the value, and every critical point of a sum over coordinates."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface

MOST = 6  # negative directions for which all critical points are listed, 3^6 of them; with more, the origin alone

NonZero = Annotated[float, Field(ge=-1e6, le=1e6)]


class Walled(Surface):
    """f(x) = 1/2 sum_i lambda_i x_i^2 + wall/4 sum of x_i^4 over the negative lambda_i."""

    spectrum: tuple[NonZero, ...] = Field(
        default=(1.0, -1.0), min_length=1, max_length=100_000, description="eigenvalues at the origin, none of them 0"
    )
    wall: float = Field(default=1.0, gt=0, le=1e6, description="size of the quartic term")

    @model_validator(mode="after")
    def _strict(self) -> Self:
        if 0.0 in self.spectrum:
            raise ValueError("an eigenvalue is 0: use `surface: quartic_saddle` or `monkey_saddle` for degenerate ones")
        if min(self.spectrum) > 0:
            raise ValueError("no eigenvalue is negative: there is no saddle; use `surface: quadratic`")
        return self

    @property
    def size(self) -> int:
        return len(self.spectrum)

    @cached_property
    def eigenvalues(self) -> torch.Tensor:
        """(P,) float64"""
        return torch.tensor(self.spectrum, dtype=torch.float64)

    @abstractmethod
    def critical_points(self) -> Iterator[CriticalPoint]: ...

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        eigenvalues = self.eigenvalues.to(theta)
        walls = 0.25 * self.wall * (eigenvalues < 0).to(theta)
        squares = theta.square()
        return (squares * torch.addcmul(0.5 * eigenvalues, walls, squares)).sum(-1)

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """The absolute values."""
        return theta.abs()

    def walled_points(self) -> Iterator[CriticalPoint]:
        """The origin first; then all others, one for each choice of 0 or +- sqrt(|lambda| / wall) a negative direction.

        At the wall the curvature is -2 lambda_i > 0, and the loss lower by lambda_i^2 / (4 wall).
        """
        negative = [i for i, value in enumerate(self.spectrum) if value < 0]
        choices = (
            itertools.product((0, 1, -1), repeat=len(negative)) if len(negative) <= MOST else [(0,) * len(negative)]
        )
        for choice in choices:
            theta = torch.zeros(self.size, dtype=torch.float64)
            loss = 0.0
            for i, sign in zip(negative, choice, strict=True):
                theta[i] = sign * (-self.spectrum[i] / self.wall) ** 0.5
                loss -= sign**2 * self.spectrum[i] ** 2 / (4 * self.wall)
            yield CriticalPoint(theta, loss, choice.count(0))
