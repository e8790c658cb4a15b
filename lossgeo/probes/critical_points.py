"""What kind of point is this? The signs of the Hessian's eigenvalues, and whether the gradient vanishes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, final

import torch

from lossgeo.curvature.sample import Sample
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._critical import CriticalPointProbe
from lossgeo.probes._curvature import Found

SEARCHES = "searches are probe critical_point_search, which fills the same table"


@final
class CriticalPoints(CriticalPointProbe):
    """Gradient norm, extreme eigenvalues, and how many are negative, zero and positive: the index and the kind.

    Of the point of the trajectory itself; `critical_point_search` looks for critical points near it.

    Cost: a product for each parameter up to `exact`; else steps x vectors and what the ends take.
    Source: cutoffs as in Frye et al. 2021; Jin et al. 2017, definition 3, for second_order.
    """

    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType(dict.fromkeys(("refine", "starts", "noise"), SEARCHES))

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        row = self.classified(sample.here, sample.operator, sample.here.gradient(), generator)
        return Found([row], {}, 0.0 if sample.whole else float("inf"))
