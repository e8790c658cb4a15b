"""Stochastic gradient descent, plain, with a heavy ball, or with Nesterov's look-ahead.

The update is torch's own fused kernel, which torch.optim takes only when asked. It passes over memory once, where the
same arithmetic written out passes over it up to four times.
"""

from __future__ import annotations

from typing import Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.optimizers import Optimizer, Recursion, State, Step, Threshold


@final
class SGD(Optimizer):
    """Gradient descent on batches, with momentum.

        g     <- gradient L(theta) + weight_decay theta
        u     <- momentum u + (1 - dampening) g              (u <- g at the first step)
        theta <- theta - lr u                                (Nesterov: theta - lr (g + momentum u))

    Source: Sutskever et al. 2013, in the form of torch.optim.SGD: lr stands outside u, so that a schedule never
    rescales the past.
    Limits: momentum 0 is plain gradient descent, whatever the dampening. On a quadratic with curvature lambda it
    contracts by 1 - lr lambda a step and diverges beyond lambda = 2 / lr; with momentum b and dampening d, beyond
    (2 + 2 b) / ((1 - d) lr), and with Nesterov's beyond (2 + 2 b) / ((1 + 2 b) lr). Weight decay is curvature too: it
    lowers the threshold of the loss without it by as much.
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

    def penalty(self) -> float:
        return self.weight_decay

    def recursion(self, lr: float, first: bool = False) -> Recursion:
        """z^2 - (1 + b - (1 - d) lr h) z + b for curvature h; Nesterov's z^2 - (1 + b)(1 - lr h) z + b (1 - lr h)."""
        b, taken = self.momentum, self._taken(first)
        if self.nesterov:
            return Recursion(((1.0, -lr * b * b), (0.0, b)), (-lr * (1 + b), 1.0))
        return Recursion(((1.0, -lr * b), (0.0, b)), (-lr * taken, taken))

    def drift(self, lr: float) -> float | None:
        """lr (1 - dampening) / (1 - momentum)"""
        return None if self.weight_decay else lr * self._taken() / (1 - self.momentum)

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        """Where z = -1 in the recursion. None with dampening 1, which takes no gradient after the first."""
        b, taken = self.momentum, 1 + 2 * self.momentum if self.nesterov else self._taken()
        if lr * taken == 0:
            return None
        return Threshold((2 + 2 * b) / (taken * lr) - (0 if include_decay else self.weight_decay), "hessian")

    def _taken(self, first: bool = False) -> float:
        """The share of the gradient that the velocity takes; without momentum there is none to dampen."""
        return 1.0 if first or self.momentum == 0 else 1 - self.dampening
