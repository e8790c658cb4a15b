"""A saddle in every network that is one unit wider than it has to be.

The narrow network is trained here, to a gradient norm that only rounding bounds, and not taken from a run. A checkpoint
of a run is never a critical point, and the theory is about these alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.optimize import minimize
from torch import nn

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.extremes import Inertia, inertia
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.errors import UsageError
from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.randomness import generator
from lossgeo.saddles.plants import Plant
from lossgeo.saddles.refiners.levenberg_marquardt import LevenbergMarquardt

MOST = 1000  # parameters of a narrow network: it is refined with its whole Hessian
CRITICAL = 1e-10  # gradient norm of a narrow network that counts as trained
NEAR = 1e-4  # length of the Newton step that may be left
TRIES = 10  # narrow networks that are trained for one that gets there, at the most
ZERO = 1e-9  # share of the largest |eigenvalue| up to which one is zero


@final
class DuplicateUnit(Plant):
    """A unit of a trained narrow network taken twice, with its outgoing weights v split: a v and (1 - a) v.

    The wide network computes the same function, and its gradient vanishes too. In the directions that set the twins
    apart, incoming weights by (1 - a) u and -a u and outgoing ones by q and -q, its Hessian is

        M = [[a (1 - a) S, T], [T', 0]],  S = mean_i (r_i . v) s''(z_i) x_i x_i',  T = mean_i s'(z_i) x_i r_i',

    x_i what the unit sees in example i, the bias as a one, z_i its input and r_i the derivative of the loss by what the
    next layer is given. All other directions are the narrow network's, and none is coupled to these. So

        index = index of the narrow network + negative eigenvalues of M.

    Points are ordered by network, then unit. Batches leave twins with a = 1/2 alike: gradients never set them apart.

    Source: Fukumizu & Amari 2000, theorem 3, for one output, where T = 0; the general form follows from M's blocks.
    Cost: some hundreds of gradients and some Hessians of a narrow network.
    """

    share: float = Field(default=0.5, ge=-10, le=10, description="a, the first twin's part of the outgoing weights")
    layer: int = Field(default=0, ge=0, description="hidden layer of the unit, counted from 0")
    networks: int = Field(default=1, ge=1, le=10_000, description="narrow networks; each of its units gives a point")

    @model_validator(mode="after")
    def _two_twins(self) -> Self:
        if self.share in (0, 1):
            raise ValueError(f"with a share of {self.share:g} one twin has no outgoing weights: choose one in between")
        return self

    def points(self, model: Model, data: Data, loss: Loss, seed: int) -> Sequence[CriticalPoint]:
        narrow = self._narrow(model)
        found: list[CriticalPoint] = []
        trained = 0
        for number in range(TRIES * self.networks):
            module = narrow.build(data.task, generator(seed, "narrow", number))
            network = _trained(Landscape(module, loss, data.task, data.train, data.test, torch.float64))
            if network is not None:
                found += self._split(network)
                trained += 1
            if trained == self.networks:
                return found
        raise UsageError(
            f"plant duplicate_unit: {trained} of {TRIES * self.networks} narrow networks reached a gradient norm of "
            f"{CRITICAL:g}, {self.networks} are wanted; use fewer units, `activation: tanh` or `loss: mse`"
        )

    def _narrow(self, model: Model) -> MLP:
        """The model with one unit less."""
        if not isinstance(model, MLP) or not model.bias or not self.layer < len(model.hidden):
            raise UsageError(
                f"plant duplicate_unit needs `model: mlp` with biases and a hidden layer number {self.layer}"
            )
        hidden = list(model.hidden)
        hidden[self.layer] -= 1
        if hidden[self.layer] < 1:
            raise UsageError("plant duplicate_unit needs two units or more in the layer: one of them is split in two")
        return MLP(**{**dict(model), "hidden": tuple(hidden)})

    def _split(self, network: Trained) -> Iterator[CriticalPoint]:
        layers = [layer for layer in network.landscape.module.modules() if isinstance(layer, nn.Linear)]
        units = layers[self.layer].out_features
        for unit in range(units):
            apart = Signs.of(self._apart(network.landscape, unit)).inertia
            theta = torch.cat([p.detach().reshape(-1) for p in self._widened(layers, unit)])
            yield CriticalPoint(theta, network.loss, network.index + apart.negative, network.zeros + apart.zero)

    def _apart(self, landscape: Landscape, unit: int) -> torch.Tensor:
        """M for a unit of the narrow network, (F + 1 + C, F + 1 + C) for F inputs and C units in the next layer."""
        modules = list(landscape.module.children())
        at = 2 * self.layer
        linear, activation, following = modules[at : at + 3]
        assert isinstance(following, nn.Linear)
        targets, total = landscape.train.targets, landscape.loss.weight(landscape.train.targets)
        with torch.no_grad():
            inputs = landscape.train.inputs.flatten(1)
            for module in modules[:at]:
                inputs = module(inputs)
            z = linear(inputs)
            given = following(activation(z))
        with torch.enable_grad():
            given = given.requires_grad_()
            outputs = given
            for module in modules[at + 3 :]:
                outputs = module(outputs)
            (r,) = torch.autograd.grad(landscape.loss.mean(outputs, targets) * total, given)
            leaf = z[:, unit].clone().requires_grad_()
            (first,) = torch.autograd.grad(activation(leaf).sum(), leaf, create_graph=True)
            second = torch.zeros_like(first)
            if first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), leaf)
        x = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)  # (N, F + 1)
        v = following.weight.detach()[:, unit]
        s = x.T @ (((r @ v) * second)[:, None] * x) / total
        t = x.T @ (first.detach()[:, None] * r) / total
        corner = torch.zeros(len(v), len(v), dtype=s.dtype)
        return torch.cat([torch.cat([self.share * (1 - self.share) * s, t], 1), torch.cat([t.T, corner], 1)])

    def _widened(self, layers: Sequence[nn.Linear], unit: int) -> Iterator[torch.Tensor]:
        """The wide network's parameters in their order; the second twin comes last in its layer."""
        for number, layer in enumerate(layers):
            weight, bias = layer.weight.detach(), layer.bias.detach()
            if number == self.layer:
                weight, bias = torch.cat([weight, weight[unit : unit + 1]]), torch.cat([bias, bias[unit : unit + 1]])
            if number == self.layer + 1:
                weight = torch.cat([weight, (1 - self.share) * weight[:, unit : unit + 1]], 1)
                weight[:, unit] *= self.share
            yield weight
            yield bias


@dataclass(frozen=True)
class Trained:
    """A narrow network at a critical point."""

    landscape: Landscape  # its module holds the weights
    loss: float
    index: int
    zeros: int


def _trained(landscape: Landscape) -> Trained | None:
    """By BFGS, then Newton's steps on the gradient; None where these do not get to `CRITICAL`, or to infinity.

    Raises:
        UsageError: it is too large.
    """
    if landscape.size > MOST:
        raise UsageError(f"plant duplicate_unit: {landscape.size} parameters, its Hessian is for {MOST} at the most")

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(x)
        return landscape.evaluate(theta, landscape.train).loss, gradient(theta).numpy()

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        return landscape.mean_gradient(theta, landscape.train)

    def hessian(theta: torch.Tensor) -> LinearOperator:
        return Hessian().at(LocalLoss(landscape, Point(0, theta, {}), landscape.train))

    down = minimize(value, landscape.start().numpy(), jac=True, method="BFGS", options={"gtol": 1e-7})
    theta = LevenbergMarquardt().search(gradient, hessian, torch.from_numpy(down.x), 0.01 * CRITICAL).theta.clone()
    g, signs = gradient(theta), Signs.of(hessian(theta).dense())
    # more zeros than where nothing is accidental, or far to go: the gradient only fades out, towards infinity
    fades = signs.inertia.zero > Signs.of(hessian(landscape.start()).dense()).inertia.zero or signs.distance(g) > NEAR
    if fades or not float(torch.linalg.vector_norm(g)) <= CRITICAL:
        return None
    landscape.flat.go_to(theta)
    return Trained(
        landscape, landscape.evaluate(theta, landscape.train).loss, signs.inertia.negative, signs.inertia.zero
    )


@dataclass(frozen=True)
class Signs:
    """The eigenvalues of a symmetric matrix by their signs, zero being small beside the largest."""

    values: torch.Tensor
    vectors: torch.Tensor
    small: float

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Self:
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        return cls(values, vectors, ZERO * float(values.abs().max()))

    @property
    def inertia(self) -> Inertia:
        return inertia(self.values.numpy(), self.small)

    def distance(self, gradient: torch.Tensor) -> float:
        """The length of Newton's step, without the zero ones."""
        along = self.vectors.T @ gradient
        return float(torch.linalg.vector_norm((along / self.values)[self.values.abs() > self.small]))
