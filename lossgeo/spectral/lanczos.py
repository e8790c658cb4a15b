"""Both ends of a spectrum in one Lanczos run, every pair with its residual.

Full reorthogonalization, because without it converged pairs come back as copies of themselves. The stopping rule is
that every residual stays small for three steps: a start vector may hold so little of an extreme direction that a
neighbour converges first and looks like the answer, but then the missing one is already on its way. On spectra with
close neighbours the residual alone was wrong in up to 5% of runs at a tolerance of 1e-2 and 1.3% at 1e-3; held for
three steps in up to 1% and in none of 300, at two products more (tests/bench/bench_stopping.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from lossgeo.linear import LinearOperator

BLOCK = 32  # rows of the basis allocated at a time
SECOND_PASS = 0.7  # Gram-Schmidt again when the norm fell below this share (Daniel et al. 1976); once more is enough
HELD = 3  # steps for which the residuals have to stay small
FLOOR = 1e-2  # an eigenvalue below this share of the norm is resolved relative to the norm, since it may be zero


@dataclass(frozen=True)
class Eigenpairs:
    """K eigenpairs, the extreme one first."""

    values: np.ndarray  # (K,) float64
    residuals: np.ndarray  # (K,) ||A y - value y||; some eigenvalue lies within it of the value
    converged: np.ndarray  # (K,) bool
    vectors: torch.Tensor  # (K, P) orthonormal rows


@dataclass(frozen=True)
class Ends:
    """The two ends of a spectrum."""

    top: Eigenpairs
    bottom: Eigenpairs
    products: int


def lanczos(
    operator: LinearOperator,
    top: int,
    bottom: int,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
) -> Ends:
    """The `top` largest and `bottom` smallest eigenpairs of a symmetric operator (fewer where P is smaller).

    A pair counts as converged when residual <= tolerance * max(|value|, FLOOR * ||A||). The run ends when all asked
    for have been for HELD steps, or after `max_products` products. With V the basis and T = V'AV tridiagonal, A V = V
    T + beta r e'. When beta vanishes, V spans an invariant subspace; the run goes on from a random vector outside it,
    until that part's own ends have converged too and so cannot hold a missing copy of a multiple eigenvalue.

    Every value has an eigenvalue within its residual; that it is the extreme one rests on the random start.

    Costs at most `max_products` products and as many vectors of memory.
    Source: Golub & Van Loan, 4th ed., section 10.1 to 10.3; Parlett 1998, chapter 13.

    Raises:
        ArithmeticError: the operator returned a non-finite vector.
    """
    size, top, bottom = operator.size, min(top, operator.size), min(bottom, operator.size)
    limit = min(size, max_products)
    eps = torch.finfo(operator.dtype).eps
    basis = torch.empty(0, size, dtype=operator.dtype, device=operator.device)
    alpha: list[float] = []
    beta: list[float] = []  # beta[j] couples rows j and j + 1
    part = 0  # the row where the current invariant part begins
    held = 0  # steps for which everything asked for has been good
    vector = _direction(basis, generator)
    while True:
        rows = len(alpha) + 1
        if rows > basis.shape[0]:
            basis = torch.cat([basis, basis.new_empty(min(BLOCK, limit + 1 - rows), size)])
        basis[rows - 1] = vector
        image = operator @ vector
        alpha.append(_dot(vector, image))
        rest = _orthogonal(image, basis[:rows])
        beta.append(float(torch.linalg.vector_norm(rest)))
        if not np.isfinite(alpha[-1] + beta[-1]):
            raise ArithmeticError("a product with the operator is not finite")
        values, weights = _ritz(alpha, beta)
        norm = float(np.abs(values).max())
        broken = beta[-1] <= 10 * eps * norm
        if broken:
            beta[-1] = 0.0
        residuals = beta[-1] * np.abs(weights[-1])
        good = _small(residuals, values, norm, tolerance)
        small = rows >= max(top, bottom) and bool(good[rows - top :].all() and good[:bottom].all())
        held = held + 1 if small else 0
        if part == 0:
            done = held >= HELD and not broken
        else:
            wanted = (values[rows - top] if top else np.inf, values[bottom - 1] if bottom else -np.inf)
            done = small and _holds_no_copy(_ritz(alpha[part:], beta[part:]), beta[-1], wanted, norm, tolerance)
        if done or rows == limit:
            break
        if broken:
            part = rows
            vector = _direction(basis[:rows], generator)
        else:
            vector = rest / beta[-1]
    if rows == size:  # the basis spans everything: the pairs are exact, and what beta holds is rounding
        residuals, good = np.zeros_like(residuals), np.ones_like(good)
    residuals = np.maximum(residuals, eps * norm)  # the products themselves are no better than this
    ends = [np.arange(rows)[::-1][:top], np.arange(rows)[:bottom]]
    pairs = [Eigenpairs(values[i], residuals[i], good[i], _combine(weights[:, i], basis[:rows])) for i in ends]
    return Ends(pairs[0], pairs[1], rows)


def _holds_no_copy(
    ritz: tuple[np.ndarray, np.ndarray], coupling: float, wanted: tuple[float, float], norm: float, tolerance: float
) -> bool:
    """Whether an invariant part's own ends have converged, and to nothing beyond the last wanted values."""
    values, weights = ritz
    converged = _small(coupling * np.abs(weights[-1]), values, norm, tolerance)[[0, -1]].all()
    slack = tolerance * norm
    return bool(converged and values[-1] <= wanted[0] + slack and values[0] >= wanted[1] - slack)


def _small(residuals: np.ndarray, values: np.ndarray, norm: float, tolerance: float) -> np.ndarray:
    good: np.ndarray = residuals <= tolerance * np.maximum(np.abs(values), FLOOR * norm)
    return good


def _ritz(alpha: list[float], beta: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors (columns) of the tridiagonal matrix, in float64."""
    if len(alpha) == 1:
        return np.array(alpha), np.ones((1, 1))
    values, weights = scipy.linalg.eigh_tridiagonal(alpha, beta[: len(alpha) - 1])
    return values, weights


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    # torch sums elementwise products pairwise, with an error of 1e-9 where its dot product of 1e7 floats loses 2e-6
    return float((a * b).sum())


def _orthogonal(vector: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The part of a vector orthogonal to the rows of the basis, by classical Gram-Schmidt, twice where needed."""
    before = float(torch.linalg.vector_norm(vector))
    vector = vector - basis.T @ (basis @ vector)
    if float(torch.linalg.vector_norm(vector)) < SECOND_PASS * before:
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _direction(basis: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random unit vector orthogonal to the rows of the basis."""
    # drawn on the CPU, so that a seed means the same vector on every device
    drawn = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64).to(basis.device, basis.dtype)
    for _ in range(2):
        drawn = drawn - basis.T @ (basis @ drawn)
        drawn = drawn / torch.linalg.vector_norm(drawn)
    return drawn


def _combine(weights: np.ndarray, basis: torch.Tensor) -> torch.Tensor:
    """Ritz vectors (K, P) from their coordinates (M, K) in the basis (M, P)."""
    return torch.from_numpy(np.ascontiguousarray(weights.T)).to(basis.device, basis.dtype) @ basis
