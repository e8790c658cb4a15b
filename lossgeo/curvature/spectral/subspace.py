"""Subspaces in which an operator is known before the rest is sampled: by eigenpairs, a Krylov space or a sketch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import Krylov, direction, dot
from lossgeo.curvature.spectral.lanczos import Eigenpairs
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.xtrace import new_direction


@dataclass(frozen=True)
class Subspace:
    """A subspace in which the operator is known, which leaves (I - Q'Q) A (I - Q'Q) to be sampled."""

    basis: torch.Tensor  # (K, P), the orthonormal rows Q
    trace: float  # of Q A Q'
    squares: float  # ||Q A Q'||_F^2
    products: int  # spent on finding it


def nothing(operator: LinearOperator) -> Subspace:
    empty = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
    return Subspace(empty, 0.0, 0.0, 0)


def eigenvectors(operator: LinearOperator, known: Eigenpairs) -> Subspace:
    """Ritz pairs: the values are u'Au and no vector couples to another, converged or not."""
    basis = known.vectors.to(operator.device, operator.dtype)
    return Subspace(basis, math.fsum(known.values), math.fsum(known.values**2), 0)


def krylov(operator: LinearOperator, steps: int, generator: torch.Generator) -> Subspace:
    """A product a row, since the next row is the product with the last one."""
    if steps < 1:
        return nothing(operator)
    space = Krylov(operator, direction(operator, generator))
    while space.steps < steps and not space.invariant:
        space.extend()
    alpha, beta = np.array(space.alpha), np.array(space.beta[:-1])
    squares = float((alpha**2).sum() + 2 * (beta**2).sum())
    return Subspace(space.basis, math.fsum(space.alpha), squares, space.steps)


def sketch(operator: LinearOperator, columns: int, generator: torch.Generator) -> Subspace:
    """Two products a row: A z, and A times what is new in it. Fewer rows where the range of A is exhausted."""
    inside = nothing(operator)
    q, total, squares, products = inside.basis, 0.0, 0.0, 0
    for _ in range(columns):
        row = new_direction(operator @ signs(operator, generator), q)
        products += 1
        if row is None:
            break
        image = operator @ row
        products += 1
        form = dot(row, image)
        total, squares = total + form, squares + form**2 + 2 * float((q @ image).square().sum())
        q = torch.cat([q, row[None]])
    return Subspace(q, total, squares, products)


def signs(operator: LinearOperator, generator: torch.Generator) -> torch.Tensor:
    """Random signs (P,)."""
    bits = torch.randint(0, 2, (operator.size,), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(operator.device, operator.dtype)
