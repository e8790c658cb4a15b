"""RMSprop: the gradient over its root mean square. torch has no fused kernel for it, so the arithmetic stands here."""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.landscapes.point import Preconditioner
from lossgeo.optimizers import Optimizer, State, Step, Threshold


@final
class RMSprop(Optimizer):
    """Steps along the gradient over its root mean square, coordinate by coordinate.

        g     <- gradient L(theta) + weight_decay theta
        v     <- alpha v + (1 - alpha) g^2
        a     <- alpha a + (1 - alpha) g                     (centered only)
        d     <- g / (sqrt(v) + eps)                         (centered: sqrt(v - a^2))
        u     <- momentum u + d                              (u = d without momentum)
        theta <- theta - lr u

    Source: Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, equations 38 to 45; as torch.optim.RMSprop.
    Limits: alpha 0 and eps 0 is sign descent, theta - lr sign(g). v starts at 0 and is not corrected for it, so the
    first step is about lr / sqrt(1 - alpha) in every coordinate, ten times lr by default.
    Cost: one gradient; one more vector in memory, one more for each of centered and momentum.
    Errors: none; eps 0 gives NaN where a gradient has always been 0, and centered wherever a gradient is constant.
    """

    lr: float = Field(default=1e-2, ge=0, description="base learning rate; the schedule multiplies it")
    alpha: float = Field(default=0.99, ge=0, lt=1, description="memory of the mean square of the gradient")
    eps: float = Field(
        default=1e-8, ge=0, description="added to sqrt(v): coordinates with gradients below it move slower"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="adds weight_decay * theta to the gradient")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="share of the velocity that survives a step")
    centered: bool = Field(
        default=False, description="divide by the standard deviation in place of the root mean square"
    )

    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        state = {"square_avg": torch.zeros_like(theta)}
        if self.centered:
            state["grad_avg"] = torch.zeros_like(theta)
        if self.momentum != 0:
            state["momentum_buffer"] = torch.zeros_like(theta)
        return state

    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        value, gradient = loss.gradient(theta)
        g = gradient if self.weight_decay == 0 else gradient.add(theta, alpha=self.weight_decay)
        v = state["square_avg"].mul_(self.alpha).addcmul_(g, g, value=1 - self.alpha)
        if self.centered:
            a = state["grad_avg"].lerp_(g, 1 - self.alpha)
            scale = v.addcmul(a, a, value=-1).sqrt_().add_(self.eps)
        else:
            scale = v.sqrt().add_(self.eps)
        if self.momentum != 0:
            u = state["momentum_buffer"].mul_(self.momentum).addcdiv_(g, scale)
            theta.add_(u, alpha=-lr)
        else:
            theta.addcdiv_(g, scale, value=-lr)
        return Step(theta, state, value, gradient)

    def penalty(self) -> float:
        return self.weight_decay

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        """(2 + 2 momentum) / lr, of D^-1/2 H D^-1/2.

        None with alpha 0, which is sign descent, and where the gradient holds weight decay that the curvature does not.
        """
        if lr == 0 or self.alpha == 0 or (self.weight_decay and not include_decay):
            return None
        return Threshold((2 + 2 * self.momentum) / lr, "preconditioned")

    def preconditioner(self, theta: torch.Tensor, state: State) -> Preconditioner:
        """D = sqrt(v) + eps of the last step; centered: sqrt(v - a^2) + eps. As for SGD, momentum is no part of it."""
        v = state["square_avg"]
        if not v.any():
            raise ValueError("before the first step the preconditioner is not known; probe from a later step on")
        if self.centered:
            v = v.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
        return Preconditioner.diagonal(v.sqrt() + self.eps)
