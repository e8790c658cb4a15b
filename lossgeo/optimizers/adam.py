"""Adam: its weight decay is part of the loss, and so is divided by sqrt(v) like every other gradient."""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field

from lossgeo.optimizers._moments import Moments


@final
class Adam(Moments):
    """Steps along the mean gradient over its root mean square, coordinate by coordinate.

        g     <- gradient L(theta) + weight_decay theta
        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    With amsgrad, max over steps of v in place of v.

    Source: Kingma and Ba 2015, Algorithm 1; Reddi et al. 2018, Algorithm 2.
    Limits: betas (0, 0) and eps 0 is sign descent, theta - lr sign(g); large eps is a heavy ball of rate lr / eps with
    dampening beta1.
    Cost: one gradient; two more vectors in memory, three with amsgrad.
    Errors: none; eps 0 gives NaN where a gradient has always been 0.
    """

    weight_decay: float = Field(default=0.0, ge=0, description="adds weight_decay * theta to the gradient")

    def _update(self, *vectors: list[torch.Tensor], **numbers: Any) -> None:
        torch._fused_adam_(*vectors, **numbers)

    def penalty(self) -> float:
        return self.weight_decay
