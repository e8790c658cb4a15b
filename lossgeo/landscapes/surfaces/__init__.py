"""Analytic surfaces: losses whose critical points are known, each file one.

A surface has examples too. Example i adds its `tilt` to the value, theta . b_i, and the tilts' mean is zero; so one
word, `batch_size`, means the same on a surface as on a network, and everything that averages over examples works on
both. All but `noisy_saddle` have one example, whose tilt is zero.

Values are for many points at once, a point a row, and are made of elementwise operations and sums within a row: then a
row's value and gradient have the same bits whichever rows stand beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch

from lossgeo.components.component import Component
from lossgeo.landscapes.critical_point import CriticalPoint, Theory


class Surface(Component):
    """A function of P numbers in closed form."""

    chain: ClassVar[bool] = False  # whether trajectories meet the listed saddles one after the other, in their order

    @property
    @abstractmethod
    def size(self) -> int:
        """P, the dimension."""

    @abstractmethod
    def value(self, theta: torch.Tensor) -> torch.Tensor:
        """The values (...) at points theta (..., P)."""

    @abstractmethod
    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A point (P,), float64, drawn from where trajectories are usually begun."""

    def critical_points(self) -> Iterator[CriticalPoint]:
        """The known ones, in an order that stays; nothing where none is known in closed form."""
        yield from ()

    def theory(self, loss: float, index: float) -> Theory | None:
        """What is known of critical points like one of this loss and index; None where the surface has no theory."""
        return None

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """What the surface's symmetries leave of theta (P,): points that agree in it are one point, up to symmetry."""
        return theta

    def tilts(self) -> torch.Tensor:
        """The tilt b_i of every example, (N, P), float64, of mean zero."""
        return torch.zeros(1, self.size, dtype=torch.float64)


def uniform(generator: torch.Generator, size: int, low: float, high: float) -> torch.Tensor:
    """Numbers (P,) drawn uniformly between two bounds."""
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)
