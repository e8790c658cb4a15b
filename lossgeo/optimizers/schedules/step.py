"""A staircase with even treads; `piecewise` has uneven ones."""

from __future__ import annotations

from typing import final

from pydantic import Field

from lossgeo.optimizers.schedules import Schedule


@final
class Step(Schedule):
    """A drop by the same ratio after every so many steps.

        factor = gamma^floor(step / every)

    As torch.optim.lr_scheduler.StepLR. Limits: gamma 1, or every >= steps, is constant; every 1 is exponential.
    """

    every: int = Field(ge=1, description="steps between drops")
    gamma: float = Field(default=0.1, gt=0, le=1, description="what a drop multiplies the rate by")

    def shape(self, step: int, steps: int) -> float:
        return self.gamma ** (step // self.every)
