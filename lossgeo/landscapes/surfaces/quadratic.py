"""The quadratic with a set spectrum: where every formula about learning rates and escape is exact."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces._rows import rotation, rows_times

Eigenvalue = Annotated[float, Field(ge=-1e12, le=1e12)]


@final
class Quadratic(Surface):
    """f(x) = 1/2 sum_i lambda_i (q_i . x)^2, q_i the coordinate axes, or the columns of a random rotation.

    Gradient descent multiplies the component along q_i by 1 - lr lambda_i a step.
    Source: Nocedal & Wright 2006, section 3.3.
    Cost: with a rotation, P multiply-adds of whole rows.
    """

    spectrum: tuple[Eigenvalue, ...] = Field(min_length=1, max_length=100_000, description="eigenvalues of the Hessian")
    dimension: int | None = Field(
        default=None, ge=1, le=10_000_000, description="null: one for each; more: the last eigenvalue fills up"
    )
    rotation: int | None = Field(
        default=None, ge=0, description="seed of a random rotation of the eigenvectors; null: the coordinate axes"
    )

    @model_validator(mode="after")
    def _room_for_all(self) -> Self:
        if self.dimension is not None and self.dimension < len(self.spectrum):
            raise ValueError(f"`dimension` {self.dimension} has no room for {len(self.spectrum)} eigenvalues")
        return self

    @property
    def size(self) -> int:
        return self.dimension or len(self.spectrum)

    @cached_property
    def _eigenvalues(self) -> torch.Tensor:
        filling = [self.spectrum[-1]] * (self.size - len(self.spectrum))
        return torch.tensor([*self.spectrum, *filling], dtype=torch.float64)

    @cached_property
    def _axes(self) -> torch.Tensor | None:
        return None if self.rotation is None else rotation(self.rotation, self.size)

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        along = theta if self._axes is None else rows_times(theta, self._axes.to(theta))
        return 0.5 * (self._eigenvalues.to(theta) * along.square()).sum(-1)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Uniform in the unit ball: the first P coordinates of a uniform point of the sphere in P + 2 dimensions."""
        normal = torch.randn(self.size + 2, generator=generator, dtype=torch.float64)
        sphere: torch.Tensor = normal / torch.linalg.vector_norm(normal)
        return sphere[:-2]

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """The absolute components, those of a flat floor aside."""
        along = theta if self._axes is None else rows_times(theta, self._axes.to(theta))
        return along.abs() * (self._eigenvalues.to(theta) != 0)

    def critical_points(self) -> Iterator[CriticalPoint]:
        negative, zero = (int(which.sum()) for which in (self._eigenvalues < 0, self._eigenvalues == 0))
        yield CriticalPoint(torch.zeros(self.size, dtype=torch.float64), 0.0, negative, zero)
