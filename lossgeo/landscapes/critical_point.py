"""A critical point that is known in advance, and what theory says of points like it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

SAME = 1e-6  # distance of two points up to which they are one

Kind = Literal["minimum", "maximum", "saddle", "degenerate"]


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A point of zero gradient; float64."""

    theta: torch.Tensor  # (P,)
    loss: float
    index: int  # number of negative eigenvalues of the Hessian
    zeros: int = 0  # number of zero eigenvalues: above 0 it is degenerate
    way_out: torch.Tensor | None = None  # (P,) unit vector: where a saddle goes down though no eigenvalue is negative

    @property
    def kind(self) -> Kind:
        """minimum and maximum are strict; degenerate: second derivatives leave open which it is, as on a flat floor."""
        positive = len(self.theta) - self.index - self.zeros
        if (self.index > 0 and positive > 0) or self.way_out is not None:
            return "saddle"
        if self.zeros > 0:
            return "degenerate"
        return "maximum" if self.index > 0 else "minimum"

    @property
    def is_saddle(self) -> bool:
        """Whether trials may begin there: a way leads down from it, and it is no strict maximum."""
        return 0 < self.index < len(self.theta) or self.way_out is not None


@dataclass(frozen=True)
class Theory:
    """What theory says of a critical point that was found."""

    loss: float
    index: float  # a whole number where the point is known, a mean where points of its kind are


class Knowledge:
    """What is known of a landscape before anything is measured.

    `owner` names it in messages. `find` lists the critical points at which trials may begin; it is called when they are
    first asked for. `theory` gives what is known of a point like one of this loss and index, the points aside.
    `ordered`: trials meet the points one after the other, as they are listed. `invariants` is what a symmetry of the
    landscape leaves of theta (P,), where the landscape is more than its outputs.
    """

    def __init__(
        self,
        owner: str = "the model",
        find: Callable[[], Iterable[CriticalPoint]] = tuple,
        theory: Callable[[float, float], Theory | None] | None = None,
        ordered: bool = False,
        invariants: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.owner = owner
        self.ordered = ordered
        self.invariants = invariants
        self._find = find
        self._theory = theory

    @cached_property
    def points(self) -> Sequence[CriticalPoint]:
        """The critical points at which trials may begin, in an order that stays."""
        return tuple(self._find())

    def theory(self, theta: torch.Tensor, loss: float, index: float) -> Theory | None:
        """What is known of a critical point at theta (P,) of this loss and index; None: nothing."""
        if self._theory is not None:
            return self._theory(loss, index)
        for point in self.points:
            if float(torch.linalg.vector_norm(theta.double() - point.theta.to(theta.device))) <= SAME:
                return Theory(point.loss, point.index)
        return None
