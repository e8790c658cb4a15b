"""A saddle that leads somewhere: quadratic at the origin, with quartic walls along its negative directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch

from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces._walled import Walled


@final
class StrictSaddle(Walled):
    """f(x) = 1/2 sum_i lambda_i x_i^2 + wall/4 sum of x_i^4 over the negative lambda_i.

    Minima at x_i = +- sqrt(|lambda_i| / wall). With two eigenvalues of which the second is negative it is the surface
    on which a plateau is seen to last in proportion to log(1 / offset).

    Source: Lee et al. 2016, "Gradient descent only converges to minimizers", section 2, for strict saddles.
    """

    def critical_points(self) -> Iterator[CriticalPoint]:
        yield from self.walled_points()

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """One away along the positive directions, and a Gaussian of deviation 1e-3 along the negative ones."""
        near = 1e-3 * torch.randn(self.size, generator=generator, dtype=torch.float64)
        return torch.where(self.eigenvalues < 0, near, 1.0)
