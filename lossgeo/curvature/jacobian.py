"""What Gauss-Newton, Fisher, gradient covariance and NTK are made of: the Jacobian J of the outputs by the parameters.

Both J v and J' u come from graphs that are built once per chunk: J' u for a dummy u is linear in u, and so its
derivative by u along v is J v. Reverse mode twice, for the same reasons as in the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lossgeo.curvature.graphs import Graphs
from lossgeo.curvature.local_loss import LocalLoss, Pieces
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator, Sampling
from lossgeo.curvature.trust import require_adjoint
from lossgeo.landscapes.landscape import total
from lossgeo.landscapes.task import Examples


@dataclass(frozen=True)
class Jacobian:
    """J over one chunk of B examples, (B, ..., C) outputs; `share` is the chunk's share of the mean."""

    here: LocalLoss
    piece: Examples
    share: float
    outputs: torch.Tensor  # with their graph
    _dummy: torch.Tensor
    _pulled: Pieces

    @classmethod
    def over(cls, here: LocalLoss, piece: Examples, share: float) -> Jacobian:
        outputs = here.outputs(piece.inputs)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        pulled = here.derivatives((outputs,), (dummy,), graph=True)
        return cls(here, piece, share, outputs, dummy, pulled)

    def push(self, vector: torch.Tensor) -> torch.Tensor:
        """J v, like the outputs, for v (P,)."""
        pairs = [(g, v) for g, v in zip(self._pulled, self.here.split(vector), strict=True) if g is not None]
        if not pairs:
            return torch.zeros_like(self._dummy, requires_grad=False)
        # retained, since `pull` needs the part of the graph that the two share
        pulled, along = [g for g, _ in pairs], [v for _, v in pairs]
        (tangents,) = self.here.derivatives(pulled, along, keep=True, by=(self._dummy,))
        return torch.zeros_like(self._dummy, requires_grad=False) if tangents is None else tangents

    def pull(self, cotangents: torch.Tensor, keep: bool) -> torch.Tensor:
        """J' u, (P,), for u like the outputs; `keep` the graph for another product."""
        return self.here.flat(self.here.derivatives((self.outputs,), (cotangents,), keep=keep))

    def roots(self) -> list[torch.Tensor | None]:
        return [self.outputs, *self._pulled]


def jacobians(here: LocalLoss) -> Graphs[Jacobian]:
    """J chunk by chunk, kept where memory allows it.

    Raises:
        ValueError: autograd's J is not the transpose of its J'; names the layer.
    """
    require_adjoint(here)
    return Graphs(here, lambda piece, share: Jacobian.over(here, piece, share), Jacobian.roots)


# (a chunk's Jacobian, number of the chunk, tangents J v) -> B J v with the chunk's share in it
Product = Callable[[torch.Tensor], torch.Tensor]
Middle = Callable[[Jacobian, int, torch.Tensor], torch.Tensor]


class Sandwich:
    """v -> J' B J v, B block-diagonal over examples and given by its product."""

    def __init__(self, here: LocalLoss, middle: Middle) -> None:
        self.here = here
        self.middle = middle
        self.chunks = jacobians(here)

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        return total(
            jacobian.pull(self.middle(jacobian, number, jacobian.push(vector)), again)
            for number, (jacobian, again) in enumerate(self.chunks)
        )

    def contributions(self, vectors: torch.Tensor) -> Contributions:
        """(J v)_i' B_i (J v)_i, at about the price of half a product for each vector."""
        forms, shares = [], []
        for number, (jacobian, _) in enumerate(self.chunks):
            rows = []
            for vector in vectors:
                tangents = jacobian.push(vector)
                rows.append((tangents * self.middle(jacobian, number, tangents)).flatten(1).sum(1))
            forms.append(torch.stack(rows).double())
            shares.append(self.here.loss.weights(jacobian.piece.targets).double() / self.here.total)
        return Contributions(torch.cat(forms, 1), torch.cat(shares), self.here.examples.size)

    def operator(
        self,
        matvec: Product | None = None,
        contributions: Callable[[torch.Tensor], Contributions] | None = None,
        sampling: Sampling | None = None,
        semidefinite: bool = True,
    ) -> LinearOperator:
        """It as an operator; what is given takes the place of its own. It is semidefinite where B is."""
        independent = self.here.independent
        return LinearOperator(
            self.here.size,
            matvec or self.matvec,
            self.here.dtype,
            self.here.device,
            (contributions or self.contributions) if independent else None,
            sampling,
            self.chunks.room,
            self.chunks.note,
            semidefinite,
        )
