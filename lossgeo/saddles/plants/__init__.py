"""Plants: critical points of a network that theory constructs, each file one construction.

A surface knows its critical points; a network does not. But some can be planted: a unit of a trained narrow network
split in two, or all weights of a linear network at zero. Loss and index are then known without asking the Hessian.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from lossgeo.components.component import Component
from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Model
from lossgeo.optimizers.schedules import Rates


class Plant(Component):
    """A construction of critical points."""

    chain: ClassVar[bool] = False  # whether trajectories meet the points one after the other, in their order

    @abstractmethod
    def points(self, model: Model, data: Data, loss: Loss, seed: int) -> Sequence[CriticalPoint]:
        """Critical points of the model's loss on the training data, in an order that stays.

        Raises:
            UsageError: the construction does not fit the model, the data or the loss.
        """

    def leaving(self, model: Model, data: Data, theta: torch.Tensor, rates: Rates, drop: float) -> torch.Tensor | None:
        """When gradient descent from theta (R, P) is below each of the S points' loss by `drop`, in steps, (R, S).

        Infinite where it never is. None where theory says nothing beyond the spectrum at a point.
        """
        return None
