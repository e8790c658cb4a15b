"""A straight line from the base rate to a last one; above 1, that scans for the rate at which training breaks."""

from __future__ import annotations

from typing import final

from pydantic import Field

from lossgeo.optimizers.schedules import Schedule


@final
class Linear(Schedule):
    """A straight line over the run.

        factor = 1 - t + final t,  t = step / steps

    As torch.optim.lr_scheduler.LinearLR with start_factor = 1, end_factor = final and total_iters = steps. Limits:
    final 1 is constant.
    """

    final: float = Field(default=0.0, ge=0, description="factor reached at the end of the run")

    def shape(self, step: int, steps: int) -> float:
        t = step / max(steps, 1)
        return 1 - t + self.final * t
