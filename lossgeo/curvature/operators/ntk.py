"""The neural tangent kernel: how much a step for one example moves the outputs for another."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from lossgeo.curvature.graphs import vectors_beside
from lossgeo.curvature.jacobian import jacobians
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.trust import require_jacobian
from lossgeo.landscapes.landscape import total


@final
class NTK(Operator):
    """K u = J J' u / N, on vectors of one number for each example and output, in that order.

    Its nonzero eigenvalues are those of the Gauss-Newton matrix J' J / N of mse, whatever the loss of the run is. On
    outputs at T positions a vector has N T C numbers, and N counts positions.

    Cost: about 1.3 gradients a product while the graphs fit the memory.
    Source: Jacot, Gabriel & Hongler 2018; the 1/N as in Cohen et al. 2021.
    """

    of_parameters: ClassVar[bool] = False
    of_outputs: ClassVar[bool] = True

    def unit(self) -> str:
        return "(output / parameter)^2"

    def at(self, here: LocalLoss) -> LinearOperator:
        require_jacobian(here)
        chunks = jacobians(here)
        shapes = [outputs.shape for outputs in (here.outputs(piece.inputs).detach() for piece, _ in here.pieces())]
        sizes = [shape.numel() for shape in shapes]
        size = sum(sizes)
        predictions = size // shapes[0][-1]

        def matvec(vector: torch.Tensor) -> torch.Tensor:
            parts = [u.view(shape) for u, shape in zip(torch.split(vector, sizes), shapes, strict=True)]
            pulled = total(jacobian.pull(part, again) for part, (jacobian, again) in zip(parts, chunks, strict=True))
            pushed = [jacobian.push(pulled).reshape(-1) for jacobian, _ in chunks]
            return torch.cat(pushed) / predictions

        room = vectors_beside(here, size, chunks.held)
        return LinearOperator(size, matvec, here.dtype, here.device, room=room, note=chunks.note, semidefinite=True)
