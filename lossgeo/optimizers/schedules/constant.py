"""The base rate throughout, after the warm-up."""

from __future__ import annotations

from typing import final

from lossgeo.optimizers.schedules import Schedule


@final
class Constant(Schedule):
    """No change.

    factor = 1
    """

    def shape(self, step: int, steps: int) -> float:
        return 1.0

    def settled(self, steps: int) -> int:
        return self.warmup
