"""A point of zero gradient that is known in advance, and what theory says of points like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A point of zero gradient; float64."""

    theta: torch.Tensor  # (P,)
    loss: float
    index: int  # number of negative eigenvalues of the Hessian
    zeros: int = 0  # number of zero eigenvalues: above 0 it is degenerate
    way_out: torch.Tensor | None = None  # (P,) unit vector: where it goes down though no eigenvalue is negative

    @property
    def is_saddle(self) -> bool:
        """Neither a minimum nor a maximum."""
        return 0 < self.index < len(self.theta) or self.way_out is not None


@dataclass(frozen=True)
class Theory:
    """What theory says of a critical point that was found."""

    loss: float
    index: float  # a whole number where the point is known, a mean where points of its kind are
