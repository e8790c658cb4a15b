"""Stochastic gradient descent, plain, with a heavy ball, or with Nesterov's look-ahead.

The update is torch's own fused kernel, which torch.optim takes only when asked. It passes over memory once, where the
same arithmetic written out passes over it up to four times.
"""

from __future__ import annotations

from typing import Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.optimizers import Growth, Optimizer, State, Step


@final
class SGD(Optimizer):
    """Gradient descent on batches, with momentum.

        g     <- gradient L(theta) + weight_decay theta
        u     <- momentum u + (1 - dampening) g              (u <- g at the first step)
        theta <- theta - lr u                                (Nesterov: theta - lr (g + momentum u))

    Source: Sutskever et al. 2013, in the form of torch.optim.SGD: lr stands outside u, so that a schedule never
    rescales the past.
    Limits: momentum 0 is plain gradient descent. On a quadratic with curvature lambda it contracts by 1 - lr lambda a
    step and diverges beyond lr = 2 / lambda; with momentum b, beyond (2 + 2 b) / (1 - dampening) / lambda, and with
    Nesterov's beyond (2 + 2 b) / (1 + 2 b) / lambda.
    Cost: one gradient; one more vector in memory with momentum.
    Errors: nesterov without momentum, or with dampening.
    """

    lr: float = Field(default=1e-3, ge=0, description="base learning rate; the schedule multiplies it")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="share of the velocity that survives a step")
    dampening: float = Field(
        default=0.0, ge=0, le=1, description="share of the gradient that the velocity does not take"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="adds weight_decay * theta to the gradient")
    nesterov: bool = Field(default=False, description="take the velocity's next step into account")

    @model_validator(mode="after")
    def _nesterov_is_defined(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum above 0 and dampening 0: set momentum: 0.9, or nesterov: false")
        return self

    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        return {}  # the velocity appears with the first gradient; starting it at zero would dampen that one

    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        value, gradient = loss.gradient(theta)
        first = not state
        if first and self.momentum != 0:
            state = {"momentum_buffer": torch.empty_like(theta)}
        torch._fused_sgd_(
            [theta],
            [gradient],
            list(state.values()),
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=self.dampening,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=first,
        )
        return Step(theta, state, value, gradient)

    def growth(self, curvature: float, lr: float) -> Growth | None:
        """The larger root of z^2 - (1 + b + k) z + b, k = -lr lambda; for Nesterov, z^2 - (1 + b)(1 + k) z + b (1 + k).

        The share is that of this root in the solution that starts at rest.
        """
        b, k = self.momentum, -lr * (curvature + self.weight_decay)
        if k <= 0:
            return None
        first = 1 + k * (1 + b) if self.nesterov else 1 + k
        total, product = ((1 + b) * (1 + k), b * (1 + k)) if self.nesterov else (1 + b + k * (1 - self.dampening), b)
        root = (total * total - 4 * product) ** 0.5
        large, small = (total + root) / 2, (total - root) / 2
        return Growth(large, (first - small) / (large - small))

    def drift(self, lr: float) -> float | None:
        """lr (1 - dampening) / (1 - momentum)"""
        return None if self.weight_decay else lr * (1 - self.dampening) / (1 - self.momentum)
