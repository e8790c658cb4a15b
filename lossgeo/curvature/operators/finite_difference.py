"""The Hessian by differences of gradients: a last resort, for models with a layer that has no second derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch

from lossgeo.curvature.graphs import vectors_beside
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import LinearOperator

# products with extreme eigenvectors of 72 small networks, smooth ones, were off by up to 1.84 times the difference
MARGIN = 4
UNSYMMETRIC = 0.2  # of eps^(1/3): 1e-3 in float32, where rounding alone was seen to leave 2e-4


@final
class FiniteDifference(Operator):
    """H v = |v| (g(theta + h v / |v|) - g(theta - h v / |v|)) / 2h, h = eps^(1/3) max(1, |theta|).

    The error is of the order eps^(2/3): 2e-5 of the curvature in float32 at best, and more where the loss is not smooth
    on the scale h. The step has the length h whatever the length of v. What the error is here, is found at the start:
    by steps of h and 2h along a vector that two products have turned to the large eigenvalues, and a margin for others.

    Cost: two gradients a product, and eight at the start; no graph is kept.
    Errors: parameters in bfloat16, where a step of that length rounds away; a gradient that is that of no loss, so that
    its derivative is not symmetric.
    """

    def at(self, here: LocalLoss) -> LinearOperator:
        if torch.finfo(here.landscape.dtype).eps > 1e-3:
            raise ValueError(
                "finite_difference cannot resolve parameters in bfloat16; use hessian, which computes in float32"
            )
        eps = torch.finfo(here.dtype).eps
        h = eps ** (1 / 3) * max(1.0, float(torch.linalg.vector_norm(here.theta)))

        def matvec(vector: torch.Tensor, h: float = h) -> torch.Tensor:
            here.require_current()
            length = float(torch.linalg.vector_norm(vector))
            if length == 0:
                return torch.zeros_like(vector)
            step = vector * (h / length)
            forward, backward = here.gradient(here.moved(step)), here.gradient(here.moved(-step))
            product: torch.Tensor = (forward - backward) * (length / (2 * h))
            return product

        return LinearOperator(
            here.size,
            matvec,
            here.dtype,
            here.device,
            room=vectors_beside(here, here.size, 0),
            note="differences",
            error=_error(here, matvec, h),
        )


def _error(here: LocalLoss, product: Callable[[torch.Tensor, float], torch.Tensor], h: float) -> float:
    """Of products, over the norm of the map; costs eight gradients.

    Raises:
        ValueError: the map is not symmetric.
    """
    stream = torch.Generator().manual_seed(0)
    start = torch.randn(here.size, generator=stream, dtype=torch.float64).to(here.theta)
    start = start / torch.linalg.vector_norm(start)
    vectors, images = [start], []
    for _ in range(3):
        images.append(product(vectors[-1], h))
        norm = float(torch.linalg.vector_norm(images[-1]))
        if not math.isfinite(norm) or norm == 0.0:
            return 0.0  # what follows is not finite either, or the map is zero
        vectors.append(images[-1] / norm)
    # by symmetry v1 . A v2 = v2 . A v1 = |A v1|
    asymmetry = abs(float((vectors[1] * images[2]).sum()) - float(torch.linalg.vector_norm(images[1])))
    largest = float(torch.linalg.vector_norm(images[2]))
    asymmetry /= largest
    apart = float(torch.linalg.vector_norm(product(vectors[2], 2 * h) - images[2])) / largest
    # differences across the kinks of ReLUs are not symmetric either, and depend on the step as much
    if asymmetry > 10 * apart + UNSYMMETRIC * torch.finfo(here.dtype).eps ** (1 / 3):
        raise ValueError(
            f"the gradient is that of no loss: its derivative is not symmetric, by {asymmetry:.1%}; a layer whose "
            "gradient is made up, as where a value is detached or rounded, has no Hessian"
        )
    return max(asymmetry, MARGIN * apart)
