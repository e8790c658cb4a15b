"""Learning-rate schedules: a factor on the optimizer's rate, a function of the step alone.

A schedule has no state: a resumed run asks for the same step and gets the same factor. Two decisions a reader would
question: the climb of `warmup` starts at 1 / warmup, because a step at rate zero would waste a gradient; and after the
end of the run every schedule holds its last factor, because a shape such as the cosine would otherwise climb again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from pydantic import Field

from lossgeo.components.component import Component

CHUNK = 4096  # steps whose rates are looked up at a time


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

    def settled(self, steps: int) -> int:
        """The step from which on the factor stays as it is: that of the run's end, where no earlier one is known."""
        return steps


@dataclass(frozen=True)
class Rates:
    """The learning rate of every step of a training that may take `steps`, and of those that would come after."""

    base: float
    schedule: Schedule
    steps: int

    def __call__(self, step: int) -> float:
        """The rate of a step."""
        return self.base * self.schedule.factor(step, self.steps)

    @property
    def settled(self) -> int:
        """The step from which on the rate stays as it is."""
        return min(self.schedule.settled(self.steps), self.steps)

    def until(self, amounts: np.ndarray, speed: Callable[[float], float]) -> np.ndarray:
        """When the sum of speed(rate) over the steps reaches amounts (N,), in steps and parts of one; infinite: never.

        Before the start, below 0, it goes on as in the first step.
        """
        found, total, step = np.full(amounts.shape, np.inf), 0.0, 0
        while step < self.settled and np.isinf(found).any():
            speeds = [speed(self(s)) for s in range(step, min(step + CHUNK, self.settled))]
            sums = total + np.concatenate([[0.0], np.cumsum(speeds)])
            here = np.isinf(found) & (amounts <= sums[-1])
            place = np.clip(np.searchsorted(sums, amounts[here]) - 1, 0, None)
            found[here] = step + place + (amounts[here] - sums[place]) / np.diff(sums)[place]
            step, total = step + len(speeds), float(sums[-1])
        if (last := speed(self(step))) > 0:
            found = np.where(np.isinf(found), step + (amounts - total) / last, found)
        return found
