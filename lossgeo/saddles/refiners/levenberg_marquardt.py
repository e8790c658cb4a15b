"""Damped Newton steps on the gradient's norm, with the whole Hessian: for up to a few thousand parameters."""

from __future__ import annotations

import itertools
from typing import final

import torch

from lossgeo.saddles.refiners import Curvature, Gradient, Refined, Refiner

DAMPINGS = (0.0, 1e-6, 1e-4, 1e-2)  # over the square of the largest |lambda|
LENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
ENOUGH = 0.999  # a step has to make |g| smaller than this share of itself


@final
class LevenbergMarquardt(Refiner):
    """theta <- theta - a V [lambda / (lambda^2 + mu)] V' g, the best of some a and mu.

    The least-squares step for g = 0 with damping mu, in the eigenvectors V of the Hessian; mu = 0 is Newton's, with
    zero eigenvalues left out. A search ends where no step shrinks |g| by a thousandth: at a gradient-flat point.

    Cost: P products and up to 28 gradients an iteration.
    Source: Levenberg 1944, Marquardt 1963, on |g|^2.
    """

    def search(self, gradient: Gradient, hessian: Curvature, start: torch.Tensor, tolerance: float) -> Refined:
        theta, g = start, gradient(start)
        for iteration in range(self.iterations):
            norm = float(torch.linalg.vector_norm(g))
            if norm <= tolerance:
                return Refined(theta, iteration)
            operator = hessian(theta)
            values, vectors = torch.linalg.eigh(operator.dense())
            along, scale = vectors.T @ g, float(values.abs().max())
            best, best_norm = None, ENOUGH * norm
            for damping, length in itertools.product(DAMPINGS, LENGTHS):
                squares = values.square() + damping * scale**2
                shares = torch.where(values.abs() > 1e-14 * scale, values / squares, 0.0)
                there = theta - length * (vectors @ (shares * along))
                slope = gradient(there)
                size = float(torch.linalg.vector_norm(slope))
                if size < best_norm:
                    best, best_norm = (there, slope), size
                    if length == 1.0 and size < 0.1 * norm:
                        break  # Newton's own speed: nothing shorter will do better
            if best is None:
                return Refined(theta, iteration)
            theta, g = best
        return Refined(theta, self.iterations)
