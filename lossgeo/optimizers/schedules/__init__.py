"""Learning-rate schedules: a factor on the optimizer's rate, a function of the step alone.

A schedule has no state: a resumed run asks for the same step and gets the same factor. Two decisions a reader would
question: the climb of `warmup` starts at 1 / warmup, because a step at rate zero would waste a gradient; and after the
end of the run every schedule holds its last factor, because a shape such as the cosine would otherwise climb again.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import final

from pydantic import Field

from lossgeo.components.component import Component


class Schedule(Component):
    """The rate at a step over the base rate: 1 at the start of the shape, after a climb of `warmup` steps."""

    warmup: int = Field(
        default=0, ge=0, description="steps of linear climb, (step + 1) / warmup, before the shape begins"
    )

    @abstractmethod
    def shape(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`, both without the warm-up: 0 <= step <= steps, and steps may be 0."""

    @final
    def factor(self, step: int, steps: int) -> float:
        """The factor at `step` (0, 1, ...) of a run of `steps` steps; from step = steps on, the one at `steps`."""
        step = min(step, steps)
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.shape(step - self.warmup, steps - self.warmup)
