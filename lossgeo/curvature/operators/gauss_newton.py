"""The Gauss-Newton matrix: the Hessian without the curvature of the model."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from lossgeo.curvature.jacobian import Jacobian, Sandwich
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.trust import require_curved_loss, require_jacobian


@final
class GaussNewton(Operator):
    """G v = J' B J v, J the Jacobian of the outputs and B the second derivative of the mean loss by them.

    B is diag(p) - p p' for the cross-entropy of a softmax p and the identity for mse, over the number of examples, in
    closed form. H = G + the loss's slope times the model's curvature, so H = G where the model is linear or fits
    exactly; G is positive semidefinite for both losses.

    Cost: about 1.3 gradients a product while the graphs fit the memory.
    Source: Schraudolph 2002, "Fast curvature matrix-vector products", section 3.
    """

    of_outputs: ClassVar[bool] = True

    def at(self, here: LocalLoss) -> LinearOperator:
        return here.penalized(around_outputs(here))


def around_outputs(here: LocalLoss) -> LinearOperator:
    """J' B J alone, without weight decay, which is in no output.

    Raises:
        ValueError: autograd's J is not the derivative of the outputs, or B not that of the loss's slope.
    """
    require_jacobian(here)
    require_curved_loss(here)

    def bend(jacobian: Jacobian, _: int, tangents: torch.Tensor) -> torch.Tensor:
        bent: torch.Tensor = here.loss.hvp(jacobian.outputs.detach(), jacobian.piece.targets, tangents)
        return jacobian.share * bent

    return Sandwich(here, bend).operator(semidefinite=here.loss.convex)
