"""Losses: the mean over examples of a cost of outputs and targets."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from lossgeo.component import Component
from lossgeo.task import Targets, Task


class Loss(Component):
    """A cost per example, averaged over the examples."""

    accepts: ClassVar[tuple[Targets, ...]]  # the kinds of target it is defined for

    @abstractmethod
    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        """The dataset's targets in the form that `mean` takes; called once per split, not per step."""

    @abstractmethod
    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cost over a batch: outputs (B, C), prepared targets -> scalar."""

    @abstractmethod
    def weight(self, targets: torch.Tensor) -> float:
        """What `mean` divides by for these targets; chunks combine in proportion to it, so ragged chunks are exact."""

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cost and its derivative by the outputs (B, C); a loss that has them in closed form says so."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            loss = self.mean(leaf, targets)
        (derivative,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), derivative
