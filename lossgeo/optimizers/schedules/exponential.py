"""Decay at a constant rate; the length of the run does not enter, so a longer run repeats a shorter one's start."""

from __future__ import annotations

from typing import final

from pydantic import Field

from lossgeo.optimizers.schedules import Schedule


@final
class Exponential(Schedule):
    """The same ratio at every step.

        factor = gamma^step

    As torch.optim.lr_scheduler.ExponentialLR stepped once per step. Limits: gamma 1 is constant. The rate halves every
    ln 2 / (1 - gamma) steps, near enough.
    """

    gamma: float = Field(gt=0, le=1, description="what every step multiplies the rate by")

    def shape(self, step: int, steps: int) -> float:
        return float(self.gamma**step)
