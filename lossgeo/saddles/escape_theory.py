"""When theory says that a trial leaves a saddle: from the local spectrum, where the trial stands, and the noise.

Near a strict saddle a step is a linear recursion of the components along the eigenvectors of negative curvature, with
the step's own learning rate and what batches and the optimizer add to the gradient: `first_passage` follows it. Where
no eigenvalue is negative the way down begins with a higher derivative, f = -c a^m, and da/dt = s m c a^(m-1), s being
the rate of the optimizer's drift at every step, comes to r after t steps with

    sum of s = (a0^(2-m) - r^(2-m)) / (m (m-2) c).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.spectral.krylov import direction
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.schedules import Rates
from lossgeo.randomness import generator
from lossgeo.saddles.first_passage import BatchNoise, Passage
from lossgeo.saddles.saddle import EscapeRule, Saddle

ORDERS = (3, 4)  # of the first derivative that may lead down where no eigenvalue is negative
SMALL = 1e-12  # a derivative below it is zero
QUIET = 1e-10  # share of the covariance below which there is no noise along a direction


def predicted_steps(
    value: Callable[[torch.Tensor], torch.Tensor],
    saddle: Saddle,
    escape: EscapeRule,
    optimizer: Optimizer,
    rates: Rates,
    theta: torch.Tensor,
    noise: BatchNoise,
) -> list[float | None]:
    """Steps until trials (R, P) at theta leave the saddle; None where no theory covers it, or none would ever leave.

    With noise that is one number for all, their median. `value`: the loss (P,) -> scalar, differentiable as often as
    one likes. `noise`: that of batches along the saddle's directions.
    """
    parts = saddle.components(theta).double().cpu().numpy()
    none: list[float | None] = [None] * len(theta)
    noise = replace(noise, own=optimizer.shaking(theta.shape[-1]) ** 2)
    if saddle.eigenvalues[0] == 0:
        return _flat(value, saddle, escape, optimizer, rates, parts[:, 0]) if noise.silent else none
    decay = optimizer.penalty()
    curvatures = saddle.eigenvalues.double().cpu().numpy() + (decay or 0.0)
    if optimizer.recursion(rates(0)) is None or decay is None or curvatures[0] >= 0:
        return none
    if decay and escape.loss_drop is not None and saddle.theta.any():
        return none  # decay pulls the trials up the directions that go up
    force = -decay * saddle.components(torch.zeros_like(saddle.theta)[None])[0].double().cpu().numpy()
    if escape.distance is not None:
        weights, goal = np.ones_like(curvatures), escape.distance**2
    elif noise.silent:
        assert escape.loss_drop is not None
        weights, goal = -0.5 * saddle.eigenvalues.double().cpu().numpy(), escape.loss_drop
    else:
        return none  # noise holds the loss up along the directions that go up, too
    passage = Passage(optimizer, rates, curvatures, weights, goal, force, noise)
    return passage.steps(parts, np.zeros_like(parts))


def _flat(
    value: Callable[[torch.Tensor], torch.Tensor],
    saddle: Saddle,
    escape: EscapeRule,
    optimizer: Optimizer,
    rates: Rates,
    parts: np.ndarray,
) -> list[float | None]:
    way = saddle.directions[0]

    def along(a: torch.Tensor) -> torch.Tensor:
        return value(saddle.theta + a * way)

    zero = torch.zeros((), dtype=torch.float64)
    derivative, leading = along, None
    for order in range(1, max(ORDERS) + 1):
        derivative = torch.func.grad(derivative)
        slope = float(derivative(zero))
        if order in ORDERS and slope < -SMALL:
            leading = (order, -slope / math.factorial(order))
            break
    if leading is None or optimizer.drift(rates(0)) is None:
        return [None] * len(parts)
    m, c = leading
    r = escape.distance if escape.distance is not None else ((escape.loss_drop or 0.0) / c) ** (1 / m)
    # with an odd order only one side leads down
    starts = parts if m % 2 else np.abs(parts)
    down = starts > 0
    amounts = (np.where(down, starts, 1.0) ** (2 - m) - r ** (2 - m)) / (m * (m - 2) * c)
    times = rates.until(amounts, lambda rate: optimizer.drift(rate) or 0.0)
    return [
        max(0.0, float(math.ceil(t))) if leads and math.isfinite(t) else None
        for t, leads in zip(times, down, strict=True)
    ]


def noise_along(landscape: Landscape, saddle: Saddle, batch_size: int) -> BatchNoise:
    """The noise of batches' gradients along a saddle's directions; costs a product for each, none of full batches."""
    size, ways = landscape.train.size, saddle.directions.to(landscape.device)
    if batch_size == size:
        return BatchNoise(np.zeros((len(ways), len(ways))), (size,))
    point = Point(0, saddle.theta.to(landscape.device), {})
    around = LocalLoss(landscape, point, landscape.train, dtype=torch.float64)
    covariance = GradientCovariance().at(around)
    along = ways @ (covariance @ ways.T)
    anywhere = direction(covariance, generator(0, "noise")).to(along)
    # where symmetry keeps noise out, rounding alone would be taken for some
    quiet = along.diagonal() < QUIET * torch.linalg.vector_norm(covariance @ anywhere)
    along[quiet], along[:, quiet] = 0.0, 0.0
    sizes = [min(batch_size, size - begin) for begin in range(0, size, batch_size)]
    return BatchNoise(((along + along.T) / 2).cpu().numpy(), tuple(sizes))
