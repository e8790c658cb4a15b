"""AdamW: weight decay acts on the weights themselves, so that it shrinks all of them at one rate."""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field

from lossgeo.optimizers._moments import Moments


@final
class AdamW(Moments):
    """Adam with weight decay taken out of the gradient.

        theta <- theta - lr weight_decay theta
        g     <- gradient L(theta)
        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    g is taken before theta shrinks. With amsgrad, max over steps of v in place of v.

    Source: Loshchilov and Hutter 2019, Algorithm 2, in the form of torch.optim.AdamW: lr multiplies the decay too.
    Limits: weight_decay 0 is Adam.
    Cost: one gradient; two more vectors in memory, three with amsgrad.
    Errors: none; eps 0 gives NaN where a gradient has always been 0.
    """

    weight_decay: float = Field(default=1e-2, ge=0, description="shrinks theta by lr * weight_decay at every step")

    def _update(self, *vectors: list[torch.Tensor], **numbers: Any) -> None:
        torch._fused_adamw_(*vectors, **numbers)

    def penalty(self) -> float | None:
        return None if self.weight_decay else 0.0
