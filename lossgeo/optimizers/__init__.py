"""Optimizers: pure steps on one flat parameter vector, in torch.optim's names, defaults and order of operations."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from pydantic import Field

from lossgeo.components.component import Component
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.task import Examples
from lossgeo.randomness import Noise

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

    lr: float = Field(ge=0, description="base learning rate; the schedule multiplies it")

    @abstractmethod
    def init(self, landscape: Landscape, theta: torch.Tensor) -> State:
        """The state before the first step: tensors only, so that a checkpoint holds all of it."""

    @abstractmethod
    def step(
        self,
        landscape: Landscape,
        batch: Examples,
        theta: torch.Tensor,
        state: State,
        lr: float,
        noise: Noise,
    ) -> Step:
        """One step with learning rate `lr` (the schedule is already in it); what it draws comes from `noise`.

        The result depends on the arguments alone. The tensors of `theta` and `state` are handed over: the step may
        write into them and return them, and the caller goes on with what is returned.
        """

    def growth(self, curvature: float, lr: float) -> Growth | None:
        """How it leaves along an eigenvector of negative curvature; None where no theory says."""
        return None

    def drift(self, lr: float) -> float | None:
        """The rate r of dx/dt = -r gradient that it follows where the gradient is small; None where no theory says."""
        return None

    def preconditioner(self, theta: torch.Tensor, state: State) -> torch.Tensor:
        """The diagonal D (P,) by which the next step divides: theta <- theta - lr D^-1 m. One for plain descent.

        Raises:
            ValueError: no step has been taken yet, so that D is not known.
        """
        return torch.ones_like(theta)
