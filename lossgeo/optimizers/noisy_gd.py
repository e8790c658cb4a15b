"""Gradient descent with noise at every step, which leaves every strict saddle."""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.optimizers import Optimizer, Recursion, State, Step, Threshold


@final
class NoisyGD(Optimizer):
    """Gradient descent that adds a vector n, uniform on the unit sphere, to every gradient.

        theta <- theta - lr (g + noise n)

    Source: Ge, Huang, Jin & Yuan 2015, "Escaping from saddle points", Algorithm 1, where noise is 1.
    Limits: noise 0 is gradient descent. On a quadratic it stays bounded up to the curvature 2 / lr, as that does.
    Cost: one gradient.
    """

    lr: float = Field(default=1e-2, ge=0, description="base learning rate; the schedule multiplies it")
    noise: float = Field(default=1.0, ge=0, description="length of the vector that is added to the gradient")

    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        return {}

    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        value, gradient = loss.gradient(theta)
        normal = loss.normal(theta.shape[-1]).to(theta)
        sphere = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
        theta.sub_(gradient, alpha=lr).sub_(sphere, alpha=lr * self.noise)
        return Step(theta, state, value, gradient)

    def recursion(self, lr: float, first: bool = False) -> Recursion:
        return Recursion(((1.0, 0.0), (0.0, 0.0)), (-lr, 0.0))

    def shaking(self, dimension: int) -> float:
        """noise / sqrt(d): the squares of a unit vector's d coordinates add up to 1"""
        return self.noise / math.sqrt(dimension)

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        return Threshold(2 / lr, "hessian") if lr > 0 else None
