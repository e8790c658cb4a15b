"""The covariance of the per-example gradients: the shape of the noise of SGD."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from lossgeo.curvature.jacobian import Jacobian, Sandwich
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator


@final
class GradientCovariance(Operator):
    """C v = sum_i s_i g_i (g_i . v) - g (g . v), g_i the gradient of example i's loss and g = sum_i s_i g_i.

    s_i is the example's share of the mean loss, 1/N without weights. The gradient of a batch of B examples drawn with
    replacement has covariance C / B. With `centered: false` the second term is left out: the empirical Fisher, which at
    a minimum is the same. No gradient of a single example is ever formed: J' applied to (slope_i (slope_i . (J v)_i)).

    Cost: about 1.3 gradients a product while the graphs fit the memory; one gradient more at the start if centered.
    Source: Kunstner, Balles & Hennig 2019, equation 3, on what the empirical Fisher is not.
    """

    centered: bool = Field(default=True, description="false: the second moment, also called the empirical Fisher")

    def unit(self) -> str:
        return "(loss / parameter)^2"

    def at(self, here: LocalLoss) -> LinearOperator:
        here.require_independent("gradient_covariance")

        def along(jacobian: Jacobian, tangents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """The slope (B, ..., C) of every example's summed cost, and g_i . v (B,) for tangents J v."""
            targets = jacobian.piece.targets
            # the gradient of an example's mean loss is its summed slope over its weight; an example without weight is
            # none, and divided by 1 its slope stays 0
            weights = here.loss.weights(targets)
            weights = torch.where(weights > 0, weights, 1.0).to(tangents.dtype)
            # in float64, since a sure prediction and its target cancel to a digit or two of float32
            slopes = here.loss.gradients(jacobian.outputs.detach().double(), targets).to(tangents.dtype)
            return slopes, (slopes * tangents).flatten(1).sum(1) / weights

        def outer(jacobian: Jacobian, _: int, tangents: torch.Tensor) -> torch.Tensor:
            slopes, values = along(jacobian, tangents)
            return slopes * (values / here.total).view(-1, *[1] * (slopes.ndim - 1))

        sandwich = Sandwich(here, outer)
        mean = here.gradient() if self.centered else None

        def matvec(vector: torch.Tensor) -> torch.Tensor:
            product = sandwich.matvec(vector)
            return product if mean is None else product - mean * (mean * vector).sum()

        def contributions(vectors: torch.Tensor) -> Contributions:
            """s_i (g_i . v - g . v)^2"""
            center = vectors.double().new_zeros(len(vectors)) if mean is None else vectors.double() @ mean.double()
            forms, shares = [], []
            for jacobian, _ in sandwich.chunks:
                values = torch.stack([along(jacobian, jacobian.push(vector))[1] for vector in vectors])
                shares.append(here.loss.weights(jacobian.piece.targets) / here.total)
                forms.append(shares[-1] * (values.double() - center[:, None]).square())
            return Contributions(torch.cat(forms, 1), torch.cat(shares), here.examples.size)

        return sandwich.operator(matvec, contributions)
