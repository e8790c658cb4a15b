"""The origin of a linear network, and the saddles that gradient descent from near it meets one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, final

import torch

from lossgeo.errors import UsageError
from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models.deep_linear import DeepLinear
from lossgeo.optimizers.schedules import Rates
from lossgeo.saddles.plants import Plant

ZERO = 1e-10  # share of the largest eigenvalue up to which one is zero
WHITE = 1e-6  # how far the covariance of the inputs may be from the identity to count as white


@final
class Origin(Plant):
    """A deep linear network at zero weights; with two layers, also with only its k strongest modes learned.

    With W = W_2 W_1, C = E x x', B = E y x' and the eigenvalues l_1 > l_2 > ... of B C^-1 B', the points are

        W = U_k U_k' B C^-1,  L = (E |y|^2 - l_1 - ... - l_k) / 2,  k = 0, 1, ...,

    U_k the first k eigenvectors: a saddle with `width` - k ways out for every mode that is left; the last, where none
    is, is a minimum and not listed. With more layers the origin alone is known. Its Hessian vanishes there: the way out
    begins with the derivative whose order is the depth.

    On white inputs, C = 1, a mode of strength s = sqrt(l) that begins at u_0 is at u_f after

        t = 1 / (2 s) ln(u_f (s - u_0) / (u_0 (s - u_f))),

    in steps of lr s -> ln(1 + lr s). u_0 is the square of what the mode's input and output weights have in common,
    without the part along the weights of stronger modes, which these suppress when they have been learned.

    Source: Baldi & Hornik 1989 for the points; Saxe, McClelland & Ganguli 2014, equation 6, for the times.
    """

    chain: ClassVar[bool] = True

    def points(self, model: Model, data: Data, loss: Loss, seed: int) -> Sequence[CriticalPoint]:
        if not isinstance(model, DeepLinear) or model.bias or model.depth < 2 or not isinstance(loss, MSE):
            raise UsageError("plant origin needs `model: deep_linear` of depth 2 or more without biases, `loss: mse`")
        modes = _modes(data)
        if model.depth > 2:
            return [_flat(model, data, modes)]
        h, n, m = model.width, math.prod(data.task.inputs), data.task.outputs
        rank, seen = len(modes.values), modes.inputs
        level = 0.5 * float(_targets(data).square().sum(1).mean())
        found = []
        for k in range(min(rank, h)):
            first = torch.zeros(h, n, dtype=torch.float64)
            first[:k] = modes.left[:, :k].T @ modes.best
            second = torch.zeros(m, h, dtype=torch.float64)
            second[:, :k] = modes.left[:, :k]
            loss_here = level - 0.5 * float(modes.values[:k].sum())
            # for every unit that is not used, and every pair of modes that are learned
            zeros = (h - k) * (2 * k + (seen - rank) + (m - rank)) + k * k + h * (n - seen)
            theta = torch.cat([first.flatten(), second.flatten()])
            found.append(CriticalPoint(theta, loss_here, (h - k) * (rank - k), zeros))
        return found

    def leaving(self, model: Model, data: Data, theta: torch.Tensor, rates: Rates, drop: float) -> torch.Tensor | None:
        assert isinstance(model, DeepLinear)
        modes, h, n = _modes(data), model.width, math.prod(data.task.inputs)
        if model.depth > 2 or not modes.white:
            return None
        first = theta[:, : h * n].double().view(-1, h, n)
        second = theta[:, h * n :].double().view(len(theta), -1, h)
        stronger: list[torch.Tensor] = []
        times = []
        for k in range(min(len(modes.values), h)):
            s = float(modes.values[k]) ** 0.5
            if 2 * drop >= s * s:
                return None  # more than the mode has to give
            common = 0.5 * (first @ modes.right[:, k] + modes.left[:, k] @ second)  # (R, h)
            for way in stronger:
                common = common - (common * way).sum(1, keepdim=True) * way
            begin, end = common.square().sum(1), s - math.sqrt(s * s - 2 * drop)
            stronger.append(common / begin.sqrt().unsqueeze(1))
            growth = end * (s - begin) / (begin * (s - end))
            times.append(torch.from_numpy(rates.until(growth.log().numpy() / 2, _growth_along(s))))
        return torch.stack(times, 1)


def _growth_along(s: float) -> Callable[[float], float]:
    """ln of what a step multiplies a small weight along a mode of strength s by, at a rate."""
    return lambda lr: math.log1p(lr * s)


class Modes(NamedTuple):
    """What linear regression of y on x has to learn, the strongest first."""

    values: torch.Tensor  # (K,) l_k, those that are not zero
    left: torch.Tensor  # (m, K) eigenvectors u_k
    right: torch.Tensor  # (n, K) B' u_k / sqrt(l_k); for white inputs the modes' input directions
    best: torch.Tensor  # (m, n) B C^-1
    inputs: int  # rank of C
    white: bool  # whether C is the identity


def _modes(data: Data) -> Modes:
    x, y = data.train.inputs.flatten(1).double(), _targets(data)
    covariance, cross = x.T @ x / len(x), y.T @ x / len(x)
    best = cross @ torch.linalg.pinv(covariance, hermitian=True, rtol=ZERO)
    values, vectors = torch.linalg.eigh(best @ cross.T)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > ZERO * values[0]).sum())
    values, left = values[:rank], vectors[:, :rank]
    right = cross.T @ left / values.sqrt()
    off = covariance - torch.eye(len(covariance), dtype=covariance.dtype)
    seen = int(torch.linalg.matrix_rank(covariance, hermitian=True, rtol=ZERO))
    return Modes(values, left, right, best, seen, bool(off.abs().max() < WHITE))


def _targets(data: Data) -> torch.Tensor:
    """(N, m), classes as mse takes them."""
    return MSE().prepare(data.train.targets, data.task, torch.float64)


def _flat(model: DeepLinear, data: Data, modes: Modes) -> CriticalPoint:
    """The origin of three layers or more, and the direction in which f = -c a^depth falls fastest."""
    widths = [math.prod(data.task.inputs), *(model.width,) * (model.depth - 1), data.task.outputs]
    cross = _targets(data).T @ data.train.inputs.flatten(1).double() / data.train.size
    u, _, v = torch.linalg.svd(cross)
    layers = [torch.zeros(below, above, dtype=torch.float64) for above, below in pairwise(widths)]
    layers[0][0] = v[0]
    for middle in layers[1:-1]:
        middle[0, 0] = 1.0
    layers[-1][:, 0] = u[:, 0]
    way_out = torch.cat([layer.flatten() for layer in layers])
    way_out = way_out / torch.linalg.vector_norm(way_out)
    level = 0.5 * float(_targets(data).square().sum(1).mean())
    return CriticalPoint(torch.zeros_like(way_out), level, 0, len(way_out), way_out)
