"""Optimizers: pure steps on one flat parameter vector, in torch.optim's names, defaults and order of operations."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

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


class Growth(NamedTuple):
    """How a displacement x along an eigenvector grows from rest: x_t ~ share factor^t x_0."""

    factor: float
    share: float = 1.0


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

    def growth(self, curvature: float, lr: float) -> Growth | None:
        """How it leaves along an eigenvector of negative curvature; None where no theory says."""
        return None

    def drift(self, lr: float) -> float | None:
        """The rate r of dx/dt = -r gradient that it follows where the gradient is small; None where no theory says."""
        return None

    def preconditioner(self, theta: torch.Tensor, state: State) -> Preconditioner:
        """D in the step theta <- theta - lr D^-1 m. The identity for plain descent.

        Raises:
            ValueError: no step has been taken yet, so that D is not known.
        """
        return Preconditioner.diagonal(torch.ones_like(theta))
