"""Minimization of the squared gradient norm: slower than Newton's steps, and never led astray by a singular Hessian."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import OptimizeResult, minimize

from lossgeo.saddles.refiners import Curvature, Gradient, Refined, Refiner


@final
class GradientNorm(Refiner):
    """min over theta of |g|^2 / 2, whose gradient is H g, by L-BFGS.

    Its minima are critical points and gradient-flat points, where H g = 0 and g does not vanish.

    Cost: one gradient and one product an evaluation, and the graph for it.
    Source: Frye et al. 2021, "Critical point-finding methods reveal gradient-flat regions", section 2.
    """

    iterations: int = Field(default=1000, ge=1, le=100_000, description="at the most")
    memory: int = Field(default=20, ge=1, le=1000, description="pairs of vectors that L-BFGS remembers")

    def search(self, gradient: Gradient, hessian: Curvature, start: torch.Tensor, tolerance: float) -> Refined:
        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            theta = torch.from_numpy(x).to(start)
            g = gradient(theta)
            return 0.5 * float(g @ g), (hessian(theta) @ g).double().cpu().numpy()

        found = minimize(
            value,
            start.double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.iterations, "maxcor": self.memory, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9},
            callback=_until(tolerance),
        )
        return Refined(torch.from_numpy(found.x).to(start), int(found.nit))


def _until(tolerance: float) -> object:
    def stop(intermediate_result: OptimizeResult) -> None:
        if intermediate_result.fun <= 0.5 * tolerance**2:
            raise StopIteration

    return stop
