"""Losses as an optimizer's step sees them: of a landscape over a batch, or of a function of a test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.task import Examples
from lossgeo.randomness import Noise


def batch_loss(
    landscape: Landscape, batch: Examples | None = None, noise: Noise | None = None, step: int = 0, trials: bool = False
) -> BatchLoss:
    """The loss of a step; over all the training examples, if no batch is given."""
    loss = BatchLoss(landscape, noise or Noise(0), trials)
    loss.begin(step, landscape.train if batch is None else batch)
    return loss


class GivenLoss:
    """What most steps ask for, of a function theta -> (value, gradient)."""

    def __init__(self, gradient: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], noise: Noise) -> None:
        self.gradient = gradient
        self.normal = noise.normal


def given_loss(gradient: Any, noise: Noise | None = None) -> Any:
    """Such a loss, whose noise is that of step 0 of seed 0 if none is given."""
    return GivenLoss(gradient, noise or Noise(0))
