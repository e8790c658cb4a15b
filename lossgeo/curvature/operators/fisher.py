"""The Fisher information: the Gauss-Newton matrix of a model that believes its own predictions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from lossgeo.curvature.jacobian import Jacobian, Sandwich
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.gauss_newton import around_outputs
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.trust import require_jacobian
from lossgeo.randomness import generator


@final
class Fisher(Operator):
    """F v = mean over examples and over targets y drawn from the model of g_y (g_y . v), g_y the gradient at target y.

    Targets follow the softmax of the outputs for the cross-entropy, and a Gaussian of unit variance around them for
    mse; positions of a sequence are independent given its inputs. With `draws: exact` the mean over y is done in closed
    form, where it equals the Gauss-Newton matrix, because outputs are natural parameters of both laws. With M draws an
    example it is sampled, as implementations for large models do; a probe then gives the standard error of v'Fv over
    the draws.

    Cost: about 1.3 gradients a product while the graphs fit the memory, whatever M; N x C x M numbers of memory.
    Source: Martens 2020, "New insights and perspectives on the natural gradient method", sections 5 and 9.
    """

    of_outputs: ClassVar[bool] = True

    draws: Annotated[int, Field(ge=2, le=10_000)] | Literal["exact"] = Field(
        default="exact",
        description="targets drawn from the model for each example, or the mean over all in closed form",
    )
    seed: int = Field(
        default=0, ge=0, description="of the draws: the same at every point, so that they can be compared"
    )

    def at(self, here: LocalLoss) -> LinearOperator:
        if here.landscape.together.losses:
            here.require_independent("fisher")
        return around_outputs(here) if self.draws == "exact" else _sampled(here, self.draws, self.seed)


def _sampled(here: LocalLoss, draws: int, seed: int) -> LinearOperator:
    require_jacobian(here)
    # a stream for every draw, so that an example's do not depend on how the examples are chunked
    streams = [generator(seed, "fisher", number) for number in range(draws)]
    slopes: list[torch.Tensor] = []  # for each chunk (M, B, ..., C), such that their outer products average to B
    for piece, _ in here.pieces():
        with torch.no_grad():
            outputs = here.outputs(piece.inputs).detach()
            # in float64, since a sure prediction and its target cancel to a digit or two of float32
            exact = outputs.double()
            drawn = [here.loss.sampled_gradients(exact, piece.targets, stream) for stream in streams]
        slopes.append(torch.stack(drawn).to(outputs.dtype))

    def along(number: int, tangents: torch.Tensor) -> torch.Tensor:
        return (slopes[number] * tangents).sum(-1, keepdim=True)  # (M, B, ..., 1)

    def outer(_: Jacobian, number: int, tangents: torch.Tensor) -> torch.Tensor:
        return (slopes[number] * along(number, tangents)).mean(0) / here.total

    sandwich = Sandwich(here, outer)

    def sampling(vectors: torch.Tensor, sums: torch.Tensor | None = None) -> torch.Tensor:
        """Draws are independent from one position to the next, so that each has a variance of its own to add.

        The deviation of the M sums over all of them has M - 1 degrees of freedom: one, with two draws.
        """
        weights = torch.eye(len(vectors)) if sums is None else sums
        variances = torch.zeros(len(weights), dtype=torch.float64)
        for number, (jacobian, _) in enumerate(sandwich.chunks):
            pushed = [jacobian.push(vector) for vector in vectors]
            for j, row in enumerate(weights.tolist()):
                terms = [w * along(number, u).square().double() for w, u in zip(row, pushed, strict=True) if w]
                variances[j] += float(torch.stack(terms).sum(0).var(0).sum()) / here.total**2
        return (variances / draws).sqrt()

    return sandwich.operator(sampling=sampling)
