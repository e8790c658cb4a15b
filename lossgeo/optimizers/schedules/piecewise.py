"""Any staircase: where `step` drops evenly, this one changes when and to what it is told."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Self, final

from pydantic import Field, model_validator

from lossgeo.optimizers.schedules import Schedule


@final
class Piecewise(Schedule):
    """Constant between boundaries.

        factor = 1 before boundaries[0], factors[i] from boundaries[i] on

    As torch.optim.lr_scheduler.MultiStepLR where factors = [gamma, gamma^2, ...]; the factors are of the base rate, not
    of the rate before.

    Errors: boundaries that do not increase, or that are not as many as the factors.
    """

    boundaries: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="steps, counted after the warm-up, at which the factor changes"
    )
    factors: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        min_length=1, description="the factor of the base rate from each boundary on"
    )

    @model_validator(mode="after")
    def _boundaries_match_factors(self) -> Self:
        if len(self.boundaries) != len(self.factors):
            raise ValueError(
                f"{len(self.boundaries)} boundaries and {len(self.factors)} factors: give one factor for each boundary"
            )
        if any(before >= after for before, after in pairwise(self.boundaries)):
            raise ValueError(f"boundaries {list(self.boundaries)} do not increase: sort them, each only once")
        return self

    def shape(self, step: int, steps: int) -> float:
        passed = bisect_right(self.boundaries, step)
        return self.factors[passed - 1] if passed else 1.0

    def settled(self, steps: int) -> int:
        return self.warmup + self.boundaries[-1]
