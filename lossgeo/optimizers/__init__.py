"""Optimizers: pure steps on one flat parameter vector, in torch.optim's names, defaults and order of operations."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from pydantic import Field

from lossgeo.component import Component
from lossgeo.landscape import Landscape
from lossgeo.task import Examples

State = dict[str, torch.Tensor]


class Step(NamedTuple):
    """Where a step led, and what it saw on the way."""

    theta: torch.Tensor  # (P,)
    state: State
    loss: torch.Tensor  # scalar: the loss on the batch, before the step
    gradient: torch.Tensor  # (P,): its gradient, before the step; valid until the next step


class Optimizer(Component):
    """A rule theta, state, gradient -> theta, state."""

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
        generator: torch.Generator,
    ) -> Step:
        """One step with learning rate `lr` (the schedule is already in it).

        The result depends on the arguments alone. The tensors of `theta` and `state` are handed over: the step may
        write into them and return them, and the caller goes on with what is returned.
        """

    def preconditioner(self, theta: torch.Tensor, state: State) -> torch.Tensor:
        """The diagonal D (P,) by which the next step divides: theta <- theta - lr D^-1 m. One for plain descent.

        Raises:
            ValueError: no step has been taken yet, so that D is not known.
        """
        return torch.ones_like(theta)
