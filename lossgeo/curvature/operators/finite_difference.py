"""The Hessian by differences of gradients: a last resort, for models with a layer that has no second derivative."""

from __future__ import annotations

from typing import final

import torch

from lossgeo.curvature.graphs import vectors_beside
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import LinearOperator


@final
class FiniteDifference(Operator):
    """H v = |v| (g(theta + h v / |v|) - g(theta - h v / |v|)) / 2h, h = eps^(1/3) max(1, |theta|).

    The error is of the order eps^(2/3): 2e-5 of the curvature in float32 at best, and more where the loss is not smooth
    on the scale h. The step has the length h whatever the length of v.

    Cost: two gradients a product; no graph is kept.
    Errors: parameters in bfloat16, where a step of that length rounds away.
    """

    def at(self, here: LocalLoss) -> LinearOperator:
        if torch.finfo(here.landscape.dtype).eps > 1e-3:
            raise ValueError(
                "finite_difference cannot resolve parameters in bfloat16; use hessian, which computes in float32"
            )
        eps = torch.finfo(here.dtype).eps
        h = eps ** (1 / 3) * max(1.0, float(torch.linalg.vector_norm(here.theta)))

        def matvec(vector: torch.Tensor) -> torch.Tensor:
            here.require_current()
            length = float(torch.linalg.vector_norm(vector))
            if length == 0:
                return torch.zeros_like(vector)
            step = vector * (h / length)
            forward, backward = here.gradient(here.moved(step)), here.gradient(here.moved(-step))
            product: torch.Tensor = (forward - backward) * (length / (2 * h))
            return product

        return LinearOperator(
            here.size, matvec, here.dtype, here.device, room=vectors_beside(here, here.size, 0), note="differences"
        )
