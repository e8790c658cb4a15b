"""When theory says that a trial leaves a saddle: from the local spectrum, where the trial stands, and the noise.

Near a strict saddle a step multiplies the component along an eigenvector of curvature lambda by the optimizer's growth
factor z(lambda), so that sum_i c_i^2 z_i^(2t) reaches the square of the distance at a step that can be solved for.
Noise of variance s^2 a step acts like a component of variance s^2 / (z^2 - 1) at the start. Where no eigenvalue is
negative the way down begins with a higher derivative, f = -c a^m, and da/dt = lr m c a^(m-1) takes

    t = (a0^(2-m) - r^(2-m)) / (lr m (m-2) c).

Source: the linear recursion; Daneshmand et al. 2018 for the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.spectral.krylov import direction
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.randomness import generator
from lossgeo.saddles.saddle import EscapeRule, Saddle

HALVINGS = 100  # of a bracket of steps
LONGEST = 1e12  # steps beyond which nobody waits
CAP = 600.0  # of an exponent: exp(709) is the largest number
ORDERS = (3, 4)  # of the first derivative that may lead down where no eigenvalue is negative
SMALL = 1e-12  # a derivative below it is zero
QUIET = 1e-10  # share of the covariance below which there is no noise along a direction


def predicted_steps(
    value: Callable[[torch.Tensor], torch.Tensor],
    saddle: Saddle,
    escape: EscapeRule,
    optimizer: Optimizer,
    lr: float,
    theta: torch.Tensor,
    noise: torch.Tensor,
) -> list[float | None]:
    """Steps until trials (R, P) at theta leave the saddle; None where no theory covers it, or none would ever leave.

    `value`: the loss (P,) -> scalar, differentiable as often as one likes. `noise` (K,): the standard deviation of the
    batch gradient along the saddle's directions.
    """
    parts = saddle.components(theta).double().cpu()
    if saddle.eigenvalues[0] == 0:
        return _flat(value, saddle, escape, optimizer, lr, parts[:, 0])
    growths = [optimizer.growth(float(value), lr) for value in saddle.eigenvalues]
    if any(growth is None for growth in growths):
        return [None] * len(theta)
    factors = torch.tensor([growth.factor for growth in growths if growth is not None], dtype=torch.float64)
    shares = torch.tensor([growth.share for growth in growths if growth is not None], dtype=torch.float64)
    squares = (parts * shares).square() + (lr * noise.double()).square() / (factors.square() - 1)
    # by distance the squares add up; by loss each counts with half its curvature
    if escape.distance is not None:
        weights, goal = torch.ones_like(factors), escape.distance**2
    else:
        assert escape.loss_drop is not None
        weights, goal = -0.5 * saddle.eigenvalues, escape.loss_drop
    return steps_until((weights * squares).numpy(), factors.numpy(), goal)


def steps_until(terms: np.ndarray, factors: np.ndarray, goal: float) -> list[float | None]:
    """The first whole t at which sum_k terms_rk factors_k^(2t) is above the goal, of R sums (R, K); None: it never is.

    Terms are not negative, factors (K,) above 1.
    """
    rates = 2 * np.log(factors)

    def reached(t: np.ndarray) -> np.ndarray:
        # capped where the goal has long been passed, so that nothing overflows
        total: np.ndarray = (terms * np.exp(np.minimum(rates * t[:, None], CAP))).sum(1)
        return total

    low, high = np.zeros(len(terms)), np.ones(len(terms))
    while (below := (reached(high) <= goal) & (high < LONGEST)).any():
        high[below] *= 2
    never, already = reached(high) <= goal, reached(low) > goal
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = reached(middle) <= goal
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    steps = np.where(already, 0.0, np.ceil(low))
    return [None if lost else float(step) for lost, step in zip(never, steps, strict=True)]


def _flat(
    value: Callable[[torch.Tensor], torch.Tensor],
    saddle: Saddle,
    escape: EscapeRule,
    optimizer: Optimizer,
    lr: float,
    parts: torch.Tensor,
) -> list[float | None]:
    rate = optimizer.drift(lr)
    way = saddle.directions[0]
    along: Callable[[torch.Tensor], torch.Tensor] = lambda a: value(saddle.theta + a * way)  # noqa: E731
    zero = torch.zeros((), dtype=torch.float64)
    derivative, leading = along, None
    for order in range(1, max(ORDERS) + 1):
        derivative = torch.func.grad(derivative)
        slope = float(derivative(zero))
        if order in ORDERS and slope < -SMALL:
            leading = (order, -slope / math.factorial(order))
            break
    if leading is None or rate is None:
        return [None] * len(parts)
    m, c = leading
    r = escape.distance if escape.distance is not None else ((escape.loss_drop or 0.0) / c) ** (1 / m)
    # with an odd order only one side leads down
    starts = [float(a) if m % 2 else abs(float(a)) for a in parts]
    return [
        None if a <= 0 else max(0.0, float(math.ceil((a ** (2 - m) - r ** (2 - m)) / (rate * m * (m - 2) * c))))
        for a in starts
    ]


def noise_along(landscape: Landscape, saddle: Saddle, batch_size: int) -> torch.Tensor:
    """The standard deviation (K,) of the gradient of batches along a saddle's directions."""
    size = landscape.train.size
    if batch_size == size:
        return torch.zeros(len(saddle.directions), dtype=torch.float64)
    point = Point(0, saddle.theta.to(landscape.device), {})
    around = LocalLoss(landscape, point, landscape.train, dtype=torch.float64)
    covariance = GradientCovariance().at(around)
    ways = saddle.directions.to(landscape.device)
    variances = torch.stack([way @ (covariance @ way) for way in ways])
    anywhere = direction(covariance, generator(0, "noise")).to(variances)
    # where symmetry keeps noise out, rounding alone would be taken for some
    variances[variances < QUIET * torch.linalg.vector_norm(covariance @ anywhere)] = 0.0
    left = (size - batch_size) / (size - 1)  # of batches drawn without replacement
    return (variances * left / batch_size).sqrt().cpu()
