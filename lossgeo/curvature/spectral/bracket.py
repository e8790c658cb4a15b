"""How far an extreme eigenvalue over some examples may be from the one over all that they were drawn from.

The extreme eigenvalue of a subsample is biased outward: its vector is fitted to these very examples. The spread over
subsets does not show that. A vector that one half of the examples chose is not fitted to the other half, so its
Rayleigh quotient there is biased inward; the truth lies between the two, give or take the error of such a quotient.

On digits MLPs of 1,210 parameters (tests/curvature/test_uncertainty.py) samples of 64 and of 256 held the Hessian's
largest eigenvalue over all 1,438 examples in 250 of 250 trials, at 0 to 1,000 steps of training, and the smallest in
200 of 200 up to 300 steps. The limit: at 1,000 steps the loss is near zero but for a few examples, which carry what
curvature is left below zero. A sample that lacks them cannot know of them: 29 of 50. The covariance of gradients meets
it sooner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossgeo.curvature.spectral.linear_operator import LinearOperator

SIGMAS = 2.0


def bracket(
    whole: LinearOperator,
    halves: Sequence[LinearOperator],
    values: torch.Tensor,
    vectors: torch.Tensor,
    of_halves: Sequence[torch.Tensor],
    sign: int,
    left: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high (K,) for eigenvalues over all examples of the population; sign 1 at the top end, -1 at the bottom.

    `values` (K,) and `vectors` (K, P) are the eigenpairs over the sample, `of_halves` the vectors (K, P) that each half
    gives, and `left` the share of the population that is not in the sample. With t s the half-width of the interval of
    v' A_i v over the examples i, at the top

        inner = mean over both halves of u' A_other u
        low   = value - left (value - inner)  -  t s        high = value + t s

    and mirrored at the bottom. All that the sample lacks is in `left`: the bias of its value is proportional to
    1 / examples - 1 / population, of which `left` is what remains beside an endless population, and s^2 likewise.

    Cost: K products over each half, and the contributions of the examples to K quadratic forms.
    """
    first, second = halves
    crossed = torch.stack(
        [
            torch.stack([(u.double() * (other @ u).double()).sum() for u in own])
            for own, other in zip(of_halves, (second, first), strict=True)
        ]
    ).mean(0)
    assert whole.contributions is not None
    error = whole.contributions(vectors).aside(left, SIGMAS).to(crossed.device)
    outer = sign * values.to(crossed.device)
    inner = outer + left * (sign * crossed - outer)
    low, high = torch.minimum(inner, outer) - error, torch.maximum(inner, outer) + error
    return (low, high) if sign > 0 else (-high, -low)
