"""The trace of an operator from products with random vectors, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lossgeo.linear import LinearOperator

FEWEST = 4  # vectors before the standard error is believed


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate and its standard error."""

    value: float
    stderr: float
    products: int
    converged: bool  # stderr <= tolerance * |value|


def hutchinson(operator: LinearOperator, vectors: int, tolerance: float, generator: torch.Generator) -> Estimate:
    """tr A = E z'Az over random signs z; the mean over at most `vectors` of them, fewer once the error is small enough.

    Var z'Az = 2 (||A||_F^2 - sum A_ii^2), so a diagonal operator takes one vector and a spectrum with few large
    eigenvalues many. Cost: one product a vector.
    Source: Hutchinson 1990; the variance is that of Avron & Toledo 2011, lemma 9 (signs).

    Raises:
        ArithmeticError: the operator returned a non-finite vector.
    """
    quadratic: list[float] = []
    mean, stderr = 0.0, float("inf")
    for n in range(1, vectors + 1):
        bits = torch.randint(0, 2, (operator.size,), generator=generator, dtype=torch.int8)
        signs = (2 * bits - 1).to(operator.device, operator.dtype)
        quadratic.append(float((signs * (operator @ signs)).sum()))
        drawn = torch.tensor(quadratic, dtype=torch.float64)
        mean = float(drawn.mean())
        if n >= 2:
            stderr = float(drawn.std()) / n**0.5
        if not torch.isfinite(drawn[-1]):
            raise ArithmeticError("a product with the operator is not finite")
        if n >= FEWEST and stderr <= tolerance * abs(mean):
            break
    return Estimate(mean, stderr, len(quadratic), stderr <= tolerance * abs(mean))
