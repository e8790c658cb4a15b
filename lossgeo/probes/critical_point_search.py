"""Which critical points are near? Searches from beside the point, each classified where it ended."""

from __future__ import annotations

from typing import Annotated, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.sample import Sample
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._critical import CriticalPointProbe
from lossgeo.probes._curvature import Found
from lossgeo.probes._fingerprint import fingerprint
from lossgeo.saddles.refiners import Refiner
from lossgeo.saddles.refiners.levenberg_marquardt import LevenbergMarquardt
from lossgeo.tables import Row

FLAT = 5e-4  # of |H g| over |H| |g|, below which a point is gradient-flat

Deviation = Annotated[float, Field(ge=0, le=1e6)]


@final
class CriticalPointSearch(CriticalPointProbe):
    """Searches for critical points by `refine`, from `starts` points beside the trajectory's, each ending in a row.

    A search begins at a Gaussian displacement whose deviation is drawn between the two of `noise`, on a logarithmic
    scale. accepted: its gradient norm is within `gradient_tolerance`; flat: it is not, and |H g| is so small beside
    |H| |g| that no such method can go on.

    Cost: the searches; and for each row what `critical_points` costs.
    Source: Dauphin et al. 2014, section 4; Frye et al. 2021 for gradient-flat points.
    """

    refine: Refiner = Field(default=LevenbergMarquardt(), description="the method of a search")
    starts: int = Field(default=1, ge=1, le=100_000, description="searches from a point")
    noise: tuple[Deviation, Deviation] = Field(
        default=(0.0, 0.0), description="smallest and largest deviation of the displacement before a search"
    )

    @model_validator(mode="after")
    def _rising_noise(self) -> Self:
        low, high = self.noise
        if low > high or (low == 0 < high):
            raise ValueError("`noise` should rise from a deviation above 0, or be one number twice")
        return self

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        origin = fingerprint(sample.here, sample.here.theta).tolist()
        rows = [self._searched(sample.here, number, generator) for number in range(self.starts)]
        rows = [row | {"origin": origin} for row in rows]
        return Found(rows, {}, 0.0 if sample.whole else float("inf"))

    def _searched(self, here: LocalLoss, number: int, generator: torch.Generator) -> Row:
        low, high = self.noise
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        deviation = low if low == high else float(low ** (1 - share) * high**share)
        away = deviation * torch.randn(here.size, generator=generator, dtype=torch.float64)

        def around(displacement: torch.Tensor) -> LocalLoss:
            return here.elsewhere(here.moved(displacement.to(here.device, here.dtype)))

        def gradient(displacement: torch.Tensor) -> torch.Tensor:
            return around(displacement).gradient()

        def hessian(displacement: torch.Tensor) -> LinearOperator:
            return self.operator.at(around(displacement))

        begin = away.to(here.device, here.dtype)
        found = self.refine.search(gradient, hessian, begin, self.gradient_tolerance)
        there = around(found.theta)
        operator, g = self.operator.at(there), there.gradient()
        row = self.classified(there, operator, g, generator)
        norm = row["gradient_norm"]
        accepted = norm <= self.gradient_tolerance
        bend = float(torch.linalg.vector_norm(operator @ g))
        size = max(abs(row["lambda_min"]), abs(row["lambda_max"])) * norm
        return row | {
            "start": number,
            "noise": deviation,
            "iterations": found.iterations,
            "accepted": accepted,
            "flat": not accepted and bend < FLAT * size,
            "moved": float(torch.linalg.vector_norm(found.theta)),
        }
