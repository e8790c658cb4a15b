"""Newton steps by minimal residuals: products with the Hessian alone, for any number of parameters."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import linalg

from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.saddles.refiners import Curvature, Gradient, Refined, Refiner


@final
class NewtonMR(Refiner):
    """theta <- theta + a p, p the minimal-residual solution of H p = -g; a by backtracking on |g|^2.

    a is halved from 1 until |g(theta + a p)|^2 <= |g|^2 + 2 rho a p' H g.

    Cost: up to `products` products and a few gradients an iteration.
    Source: Roosta, Liu, Xu & Mahoney 2019, "Newton-MR", Algorithm 1, with the constants of Frye et al. 2021.
    """

    products: int = Field(default=100, ge=1, le=100_000, description="products an iteration, at the most")
    residual: float = Field(default=1e-10, gt=0, lt=1, description="relative residual at which a step is solved")
    rho: float = Field(default=1e-4, gt=0, lt=0.5, description="share of the promised decrease that is asked for")
    shortest: float = Field(default=1e-8, gt=0, lt=1, description="step length below which a search ends")

    def search(self, gradient: Gradient, hessian: Curvature, start: torch.Tensor, tolerance: float) -> Refined:
        theta, g = start, gradient(start)
        for iteration in range(self.iterations):
            norm = float(torch.linalg.vector_norm(g))
            if norm <= tolerance:
                return Refined(theta, iteration)
            operator = hessian(theta)

            def product(vector: np.ndarray, operator: LinearOperator = operator, like: torch.Tensor = g) -> np.ndarray:
                image: torch.Tensor = operator @ torch.from_numpy(np.ravel(vector)).to(like)
                return image.double().cpu().numpy()

            shape = (len(g), len(g))
            wrapped = linalg.LinearOperator(shape, matvec=product, dtype=np.float64)
            solved, _ = linalg.minres(wrapped, -g.double().cpu().numpy(), rtol=self.residual, maxiter=self.products)
            p = torch.from_numpy(solved).to(g)
            slope = float((operator @ p) @ g)  # of |g|^2 / 2 along p: never positive for such a p
            length = 1.0
            while True:
                there = theta + length * p
                following = gradient(there)
                if float(following @ following) <= norm**2 + 2 * self.rho * length * slope and slope < 0:
                    break
                length /= 2
                if length < self.shortest:
                    return Refined(theta, iteration)
            theta, g = there, following
        return Refined(theta, self.iterations)
