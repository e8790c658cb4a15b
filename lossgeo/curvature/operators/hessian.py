"""The Hessian of the loss, by double backward with the first graph kept."""

from __future__ import annotations

from typing import final

import torch

from lossgeo.curvature.graphs import Graphs
from lossgeo.curvature.local_loss import LocalLoss, Pieces
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator
from lossgeo.curvature.trust import require_hessian
from lossgeo.landscapes.landscape import total
from lossgeo.landscapes.task import Examples

THIRD = 1e-3  # of the sum of sizes: rounding, in float32 too, is far below
ENOUGH = 256  # examples whose contributions are taken; their spread is then known to 5% or so, if it is normal


@final
class Hessian(Operator):
    """H v = d/dtheta (g(theta) . v), g the gradient of the mean loss over the examples.

    Cost: the graph of g once (1 to 3 gradients), then one backward pass through it a product (1.1 to 1.7 gradients),
    while the graphs fit the memory; chunks whose graphs do not are rebuilt for every product (2 to 3 gradients).

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", by reverse over reverse.
    """

    def at(self, here: LocalLoss) -> LinearOperator:
        def gradient(piece: Examples, share: float) -> Pieces:
            loss = share * here.loss.mean(here.outputs(piece.inputs), piece.targets)
            return here.derivatives((loss,), graph=True)

        require_hessian(here)
        graphs = Graphs(here, gradient, list)

        def matvec(vector: torch.Tensor) -> torch.Tensor:
            pieces = here.split(vector)
            return total(here.flat(here.derivatives(g, pieces, keep=again)) for g, again in graphs)

        def contributions(vectors: torch.Tensor) -> Contributions:
            return _contributions(here.first(ENOUGH), vectors, here.examples.size)

        known = contributions if here.independent else None
        return here.penalized(
            LinearOperator(here.size, matvec, here.dtype, here.device, known, room=graphs.room, note=graphs.note)
        )


def _contributions(here: LocalLoss, vectors: torch.Tensor, examples: int) -> Contributions:
    """d/dw_i of v' H(w) v, H(w) the Hessian of the sum of w_i times example i's part of the mean loss, at w = 1.

    By reverse mode alone: forward mode twice is no cheaper, and for batch statistics and attention torch 2.13 gives
    wrong numbers in silence. Costs some 4 to 9 gradients over the examples for every vector.
    """
    here.require_current()
    forms, shares = [], []
    for piece, _ in here.pieces():
        w = torch.ones(piece.size, dtype=here.dtype, device=here.device, requires_grad=True)
        loss = (w * here.loss.each(here.outputs(piece.inputs), piece.targets)).sum() / here.total
        gradient = here.derivatives((loss,), graph=True)
        rows = []
        for vector in vectors:
            v = here.split(vector)
            product = here.derivatives(gradient, v, keep=True, graph=True)
            form = sum(((p * u).sum() for p, u in zip(product, v, strict=True) if p is not None), w.new_zeros(()))
            if form.requires_grad:
                (row,) = here.derivatives((form,), keep=True, by=(w,))
                rows.append(w.new_zeros(len(w)) if row is None else row)
                # the form is linear in w, so that its derivatives by w at 1 add up to it
                rest = abs(float(rows[-1].sum() - form.detach()))
                if rest > THIRD * float(rows[-1].abs().sum() + form.detach().abs()):
                    raise ArithmeticError(
                        "what the examples add to the Hessian does not add up to it: a layer's third derivative is "
                        "wrong; measure on all examples, or set data_error: false"
                    )
            else:
                rows.append(w.new_zeros(len(w)))
        forms.append(torch.stack(rows).double())
        shares.append(here.loss.weights(piece.targets).double() / here.total)
    return Contributions(torch.cat(forms, 1), torch.cat(shares), examples)
