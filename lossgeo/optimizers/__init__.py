"""Optimizers: pure steps on one flat parameter vector, in torch.optim's names, defaults and order of operations."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from lossgeo.components.component import Component
from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.landscapes.point import Preconditioner

State = dict[str, torch.Tensor]


class Step(NamedTuple):
    """Where a step led, and what it saw on the way; of R trials each (R, P) or (R,)."""

    theta: torch.Tensor  # (P,)
    state: State
    loss: torch.Tensor  # scalar: the loss on the batch, before the step
    gradient: torch.Tensor  # (P,): its gradient, before the step; valid until the next step
    ended: torch.Tensor | None = None  # (R,) bool: the algorithm has returned; None: it never does


class Recursion(NamedTuple):
    """A step on a quadratic, one coordinate at a time: (x, u) <- free (x, u) + pull g, g the gradient at x.

    x is the displacement and u what the optimizer remembers, 0 at the start; g holds weight decay too, where that is in
    the gradient, and noise.
    """

    free: tuple[tuple[float, float], tuple[float, float]]
    pull: tuple[float, float]

    def growing(self, curvature: float) -> tuple[float, float]:
        """What a step multiplies a displacement by in the long run, and the u that then goes with x = 1.

        For a curvature h below 0: the larger root of the characteristic polynomial of free + pull (h, 0), above 1.
        """
        (a, b), (c, d) = self.free
        a, c = a + self.pull[0] * curvature, c + self.pull[1] * curvature
        half = (a + d) / 2
        factor = half + (half * half - a * d + b * c) ** 0.5
        return factor, c / (factor - d)


class Threshold(NamedTuple):
    """The largest curvature at which a step with the whole gradient still contracts, on a quadratic at a fixed rate."""

    value: float  # below 0: the step contracts at no positive curvature
    of: Literal["hessian", "preconditioned"]  # whose largest eigenvalue it is the limit of; the operator's name


class Optimizer(Component):
    """A rule theta, state, gradient -> theta, state, for theta (P,), or (R, P) of R independent trials.

    Of trials, every tensor of the state has a first dimension R, or none.
    """

    takes_trials: ClassVar[bool] = True  # whether theta may be (R, P); one that asks for curvature sets it to False

    lr: float = Field(ge=0, description="base learning rate; the schedule multiplies it")

    @abstractmethod
    def init(self, loss: BatchLoss, theta: torch.Tensor) -> State:
        """The state before the first step: tensors only, so that a checkpoint holds all of it."""

    @abstractmethod
    def step(self, loss: BatchLoss, theta: torch.Tensor, state: State, lr: float) -> Step:
        """One step with learning rate `lr` (the schedule is already in it) on the loss of its batch.

        The result depends on the arguments alone. The tensors of `theta` and `state` are handed over: the step may
        write into them and return them, and the caller goes on with what is returned.
        """

    def penalty(self) -> float | None:
        """gamma, where the gradient descended is that of L + gamma / 2 |theta|^2; None: it shrinks theta otherwise."""
        return 0.0

    def recursion(self, lr: float, first: bool = False) -> Recursion | None:
        """A step on a quadratic, the `first` one of a training or a later one; None where no linear recursion holds."""
        return None

    def shaking(self, dimension: int) -> float:
        """The deviation, in every coordinate, of what a step adds to the gradient by itself."""
        return 0.0

    def drift(self, lr: float) -> float | None:
        """The rate r of dx/dt = -r gradient that it follows where the gradient is small; None where no theory says."""
        return None

    def threshold(self, lr: float, include_decay: bool = False) -> Threshold | None:
        """Above which curvature of L a step no longer contracts, or, with `include_decay`, of L and its penalty.

        It holds for full-batch steps near a minimum while the rate and the preconditioner change little within the
        memory of the momentum. Batches and noise that depends on theta make steps unstable below it. None where no
        theory says, and at lr 0, where nothing moves.
        """
        return None

    def preconditioner(self, theta: torch.Tensor, state: State) -> Preconditioner:
        """D of the last step taken, the one that led to theta: theta <- theta - lr D^-1 m. The identity for descent.

        The next step's would hold the gradient that this step is yet to see.

        Raises:
            ValueError: no step has been taken yet, so that D is not known.
        """
        return Preconditioner.diagonal(torch.ones_like(theta))
