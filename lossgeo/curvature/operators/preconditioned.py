"""Curvature as an adaptive optimizer meets it: in the coordinates in which its step is plain gradient descent."""

from __future__ import annotations

from typing import Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator


@final
class Preconditioned(Operator):
    """D^-1/2 A D^-1/2, D the preconditioner of the optimizer's last step, t: theta <- theta - lr D^-1 m.

    D is 1 for SGD. For Adam it is (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps), and the largest eigenvalue of D^-1/2 H
    D^-1/2 settles near (2 + 2 beta1) / ((1 - beta1) lr), 38 / lr for beta1 = 0.9. The next step's D holds a gradient
    that is not known yet; the two differ by the order of 1 - beta2.

    Cost: that of A.
    Source: Cohen et al. 2022, "Adaptive gradient methods at the edge of stability", equation 3: P_t^-1 H_t.
    Errors: the optimizer has not taken a step yet, so that D is not known.
    """

    of: Operator = Field(default=Hessian(), description="the map A")

    @model_validator(mode="after")
    def _of_parameters(self) -> Self:
        if not self.of.of_parameters:
            raise ValueError(f"{self.of.component_name()} is no map of the parameters, so it has no preconditioner")
        return self

    def unit(self) -> str:
        return f"{self.of.unit()} / D"

    def at(self, here: LocalLoss) -> LinearOperator:
        root = here.point.preconditioner().inverse_root
        inner = self.of.at(here)

        def scaled(vector: torch.Tensor) -> torch.Tensor:
            return here.block(root(here.embedded(vector)))

        def contributions(vectors: torch.Tensor) -> Contributions:
            assert inner.contributions is not None
            return inner.contributions(torch.stack([scaled(v) for v in vectors]))

        def sampling(vectors: torch.Tensor, sums: torch.Tensor | None = None) -> torch.Tensor:
            assert inner.sampling is not None
            return inner.sampling(torch.stack([scaled(v) for v in vectors]), sums)

        return LinearOperator(
            here.size,
            lambda vector: scaled(inner @ scaled(vector)),
            here.dtype,
            here.device,
            contributions if inner.contributions else None,
            sampling if inner.sampling else None,
            inner.room,
            inner.note,
            inner.semidefinite,
            inner.error,
        )
