"""Gradient descent that kicks itself where the gradient is small: it leaves saddles in time nearly free of dimension.

A recipe gives one of the source's two descriptions: constants derived from the smoothness of the loss, or constants set
by hand. The derived ones are what the theorem is about; they are far too careful for any experiment that people have
run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.components.component import Value
from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.optimizers import Optimizer, State, Step, Threshold

BY_HAND = ("gradient_threshold", "radius", "waiting", "decrease")


class Constants(NamedTuple):
    """What the algorithm goes by."""

    gradient_threshold: float
    radius: float
    waiting: int  # steps
    decrease: float | None


class Theorem(Value):
    """What the theorem derives the constants from."""

    smoothness: float = Field(gt=0, description="Lipschitz constant l of the gradient")
    hessian_lipschitz: float = Field(gt=0, description="rho, that of the Hessian")
    accuracy: float = Field(gt=0, description="eps, the gradient norm aimed at")
    failure: float = Field(default=0.1, gt=0, lt=1, description="delta, the probability to miss it")
    gap: float = Field(default=1.0, gt=0, description="how far the loss starts above its infimum")
    c: float = Field(default=1.0, gt=0, le=1, description="the theorem's constant")


@final
class PerturbedGD(Optimizer):
    """Gradient descent, with a random kick where it may be at a saddle.

        if |g| <= gradient_threshold and more than `waiting` steps since the last kick:
            theta~ <- theta,  theta <- theta + xi,  xi uniform in the ball of that radius
        if exactly `waiting` steps since the last kick and f(theta) - f(theta~) > -decrease: return theta~
        theta <- theta - lr gradient f(theta)

    Derived, for l-smooth f with a rho-Lipschitz Hessian, at most `gap` above its infimum, in d dimensions:

        chi = 3 max(ln(d l gap / (c eps^2 delta)), 4),  lr = c / l,  radius = sqrt(c) / chi^2 eps / l,
        gradient_threshold = sqrt(c) / chi^2 eps,  decrease = c / chi^3 sqrt(eps^3 / rho),
        waiting = chi / c^2 l / sqrt(rho eps).

    Source: Jin, Ge, Netrapalli, Kakade & Jordan 2017, "How to escape saddle points efficiently", Algorithm 2.
    Limits: radius 0 is gradient descent, and on a quadratic it stays within a bound up to the same curvature, 2 / lr.
    Cost: one gradient; a second one at the steps with a kick. Three numbers and one vector more in memory.
    """

    lr: float = Field(default=1e-2, ge=0, description="base learning rate; with `theorem` c / smoothness")
    gradient_threshold: float = Field(default=1e-2, ge=0, description="the largest |g| that is kicked")
    radius: float = Field(default=1e-2, ge=0, description="of the ball that a kick is drawn from")
    waiting: int = Field(default=10, ge=1, description="steps between two kicks at least")
    decrease: float | None = Field(
        default=None, ge=0, description="what a kick has to gain within `waiting` steps, or it returns; null: never"
    )
    theorem: Theorem | None = Field(default=None, description="derive all these from the loss; null: as they are set")

    @model_validator(mode="before")
    @classmethod
    def _rate_of_the_theorem(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(theorem := given.get("theorem"), Theorem) and "lr" not in given:
            return {**given, "lr": theorem.c / theorem.smoothness}
        return given

    @model_validator(mode="after")
    def _one_description(self) -> Self:
        fields = type(self).model_fields
        set_too = [key for key in BY_HAND if getattr(self, key) != fields[key].default]
        if self.theorem is not None and set_too:
            raise ValueError(f"`theorem` derives `{set_too[0]}` too: leave one of them out")
        return self

    def constants(self, dimension: int) -> Constants:
        """Those of the algorithm, in so many dimensions."""
        if self.theorem is None:
            return Constants(self.gradient_threshold, self.radius, self.waiting, self.decrease)
        l, rho, eps = self.theorem.smoothness, self.theorem.hessian_lipschitz, self.theorem.accuracy  # noqa: E741
        c, delta = self.theorem.c, self.theorem.failure
        chi = 3 * max(math.log(dimension * l * self.theorem.gap / (c * eps**2 * delta)), 4.0)
        small = math.sqrt(c) / chi**2 * eps
        waiting = math.ceil(chi / c**2 * l / math.sqrt(rho * eps))
        return Constants(small, small / l, waiting, c / chi**3 * math.sqrt(eps**3 / rho))

    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        shape = theta.shape[:-1]  # of trials, one for each
        waiting = self.constants(theta.shape[-1]).waiting
        return {
            "step": torch.zeros((), dtype=torch.int64),
            "kicked": torch.full(shape, -waiting - 1, dtype=torch.int64, device=theta.device),
            "kicked_from": theta.clone(),
            "kicked_loss": torch.zeros(shape, dtype=theta.dtype, device=theta.device),
        }

    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        threshold, radius, waiting, decrease = self.constants(theta.shape[-1])
        value, gradient = loss.gradient(theta)
        since = int(state["step"]) - state["kicked"]
        ended = None
        if decrease is not None:
            ended = (since == waiting) & (value - state["kicked_loss"] > -decrease)
        kicks = (torch.linalg.vector_norm(gradient, dim=-1) <= threshold) & (since > waiting)
        seen, downhill = gradient, gradient
        if bool(kicks.any()):
            seen = gradient.clone()  # the second gradient may come in the same memory
            state["kicked"] = torch.where(kicks, state["step"].to(kicks.device), state["kicked"])
            state["kicked_loss"] = torch.where(kicks, value, state["kicked_loss"])
            state["kicked_from"] = torch.where(kicks.unsqueeze(-1), theta, state["kicked_from"])
            # uniform in the ball: the first d coordinates of a uniform point of the sphere in d + 2 dimensions
            normal = loss.normal(theta.shape[-1] + 2).to(theta)
            ball = (normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True))[..., :-2]
            theta = torch.where(kicks.unsqueeze(-1), theta + radius * ball, theta)
            _, downhill = loss.gradient(theta)
        theta = theta - lr * downhill
        if ended is not None:
            theta = torch.where(ended.unsqueeze(-1), state["kicked_from"], theta)
        state["step"] = state["step"] + 1
        return Step(theta, state, value, seen, ended)

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        return Threshold(2 / lr, "hessian") if lr > 0 else None
