"""Half a cosine from the base rate to a last one: slow at both ends, fastest in the middle."""

from __future__ import annotations

from math import cos, pi
from typing import final

from pydantic import Field

from lossgeo.optimizers.schedules import Schedule


@final
class Cosine(Schedule):
    """Half a period of a cosine over the run.

        factor = final + (1 - final) (1 + cos(pi step / steps)) / 2

    Source: Loshchilov and Hutter 2017, equation 5, without restarts; as torch.optim.lr_scheduler.CosineAnnealingLR with
    T_max = steps and eta_min = final lr. Limits: final 1 is constant.
    """

    final: float = Field(default=0.0, ge=0, description="factor reached at the end of the run")

    def shape(self, step: int, steps: int) -> float:
        return self.final + (1 - self.final) * (1 + cos(pi * step / max(steps, 1))) / 2
