"""The trace of an operator from products with vectors, with an interval that holds it as often as it says.

Two decisions a reader would question.

The standard error of z'Bz over random signs is not the deviation of the values from their mean. Those values are few,
skewed where one eigenvalue dominates, and a rule that stops once their deviation is small stops when it is small by
chance. The components z_i (Bz)_i say more: each is B_ii plus terms B_ij z_i z_j without correlation, of which every
pair i, j comes twice in the sum, so that

    Var z'Bz  =  2 sum_{i != j} B_ij^2  =  2 sum_i Var z_i (Bz)_i,

a variance estimated from P components instead of one number. It needs no more products and one more vector of memory.
Share of 95% intervals that hold the truth | vectors taken, when the tolerance asks for 20 vectors, 400 runs a cell:

                                          deviation of the values   the components
    four outliers and a bulk                    89% | 16.0             95% | 20.5
    flat                                        91% | 16.8             94% | 20.7
    one eigenvalue                              86% | 15.7             97% | 21.0
    decaying                                    87% | 16.9             94% | 20.5

Signs, because no other vectors of independent components give less variance; directions uniform on the sphere give
2 (||B||_F^2 - (tr B)^2 / P), never less and on a digits network 0.4 to 0.9% more.

Where no eigenpairs are known, `deflated` spends up to half of its products on a Krylov space and samples the rest (Chen
& Hallman). Rms relative error in percent | share of 95% intervals that hold the truth, 100 runs a cell, so 7% of an
error and 2 of a share; Hessian of an MLP 64-64-64-10 after 300 steps on digits (tests/bench/bench_trace.py):

    products                           12           30           60          120
    hutchinson                     9.6 |  94    5.6 |  99    4.4 |  98    3.1 |  95
    hutch_plus_plus               10.1 |  99    3.5 |  97    2.3 |  95    1.2 |  96
    xtrace                         8.5 |        2.5 |        1.8 |        1.1 |
    deflated                       7.9 |  98    2.5 |  93    1.5 |  94    0.8 |  97
    deflated, ten pairs known      3.2 |  89    1.6 |  96    1.2 |  95    0.9 |  91
    the same, and all other Ritz
    pairs of the search for them   2.8 |  91    1.6 |  93    1.1 |  94    0.8 |  92
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.special import stdtrit

from lossgeo.curvature.spectral.intervals import FEWEST, interval, of_squares, stderr_of
from lossgeo.curvature.spectral.krylov import dot, orthogonal, require_symmetric
from lossgeo.curvature.spectral.lanczos import Eigenpairs
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.subspace import Subspace, eigenvectors, krylov, nothing, signs, sketch
from lossgeo.curvature.spectral.xtrace import leave_one_out

Method = Literal["auto", "hutchinson", "hutch_plus_plus", "xtrace", "deflated"]

CHEAP = 64  # dimensions for each of which a product is taken without asking whether fewer would do
ENOUGH = 12  # products from which half of them are better spent on a Krylov space
STEPS = 20  # of that space at the most: best at 60 products on two digits networks, within 6% of the best at 120


@dataclass(frozen=True)
class TraceEstimate:
    """tr A with its standard error and 95% interval, and ||A||_F^2 = tr A^2, which the same products give.

    An infinite end is unknown: those of xtrace, whose standard error is too small where a spectrum decays (80 to 87% of
    its intervals held the truth), and those of the squares from few vectors.
    """

    value: float
    stderr: float  # over random vectors; infinite from a single one
    low: float
    high: float
    squares: float
    squares_stderr: float  # over vectors
    products: int
    converged: bool  # stderr <= tolerance * |value|
    method: str  # the one that was used; exact: a product for every dimension that was not known
    squares_low: float = -math.inf
    squares_high: float = math.inf


def trace(
    operator: LinearOperator,
    method: Method,
    vectors: int,
    tolerance: float,
    generator: torch.Generator,
    known: Eigenpairs | None = None,
) -> TraceEstimate:
    """tr A from at most `vectors` products, fewer once stderr <= tolerance * |value|.

    hutchinson       mean of z'Az over random signs z: Var = 2 (||A||_F^2 - sum A_ii^2)
    deflated         tr QAQ' + Hutchinson on the rest, exactly unbiased for any orthonormal Q and so for inexact
                     eigenvectors too; Q the known ones, else a Krylov space: half of the products, `STEPS` at most
    hutch_plus_plus  the same with Q from A times a third of the vectors, at twice the price in products for each row
    xtrace           Q from A times all vectors but one, sampled on that one; the mean over which
    auto             deflated where eigenpairs are known or from `ENOUGH` products on, else hutchinson
    exact            whichever is asked for, where there are products enough for an orthonormal vector in each dimension
                     that is not known, and sampling would take as many; no error but rounding

    Intervals hold the rounding of products too. `known` serves deflated and auto alone. Vectors held: K known, or 20,
    or a third of the products, or for xtrace 1.5 times them; for exact all those that are not known; less where
    `operator.room` is less.

    Source: Hutchinson 1990; Avron & Toledo 2011, lemma 9 (the variance); Chen & Hallman 2023, "Krylov-aware stochastic
    trace estimation"; Meyer, Musco, Musco & Woodruff 2021, Algorithm 1; Epperly, Tropp & Webber 2024, "XTrace".

    Raises:
        ArithmeticError: the operator returned a non-finite vector, or is not symmetric.
        ValueError: fewer products than the method can do with.
    """
    if known is not None and not len(known.values):
        known = None
    if method == "auto":
        method = "deflated" if known is not None or vectors >= ENOUGH else "hutchinson"
    if vectors < (least := 4 if method == "xtrace" else 1):
        raise ValueError(f"{method} needs {least} products, not {vectors}")
    room = vectors if operator.room is None else operator.room
    if operator.size <= min(CHEAP, vectors, room):
        return _exact(operator, nothing(operator))
    if method == "xtrace":
        return _xtrace(operator, vectors, tolerance, generator)
    if method == "hutch_plus_plus":
        inside = sketch(operator, min(vectors // 3, (vectors - 2) // 2, room), generator)
    elif method == "hutchinson":
        inside = nothing(operator)
    elif known is not None:
        inside = eigenvectors(operator, known)
    else:
        inside = krylov(operator, min(vectors // 2, vectors - 2, STEPS, room), generator)
    if operator.size - len(inside.basis) <= min(CHEAP, vectors - inside.products, room):
        return _exact(operator, inside)
    return _sampled(operator, inside, method, vectors, room, tolerance, generator)


def _sampled(
    operator: LinearOperator,
    inside: Subspace,
    method: str,
    vectors: int,
    room: int,
    tolerance: float,
    generator: torch.Generator,
) -> TraceEstimate:
    """tr QAQ' + E z'Bz over random signs z, with B = (I - Q'Q) A (I - Q'Q); the error from the components of z . Bz.

    tr A^2 = ||QAQ'||_F^2 + E ||Bz||^2 + 2 E ||Q A (I - Q'Q) z||^2, where the last term is what Q leaks.
    """
    q = inside.basis
    mean = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)  # of z_i (Bz)_i
    deviation = 0.0  # sum over vectors and components of squared differences from the mean
    total = 0.0  # of z'Bz
    spreads: list[float] = []  # ||Bz||^2, whose mean is ||B||_F^2
    squares: list[float] = []
    value, stderr = inside.trace, 0.0
    seen = _Symmetry(operator)
    agreed = False
    while len(q) < operator.size and inside.products + len(spreads) < vectors:
        z = signs(operator, generator)
        inner = orthogonal(z, q)
        image = operator @ inner
        seen.add(inner, image)
        rest = orthogonal(image, q)
        components = z * rest
        total += float(components.sum())
        spreads.append(dot(rest, rest))
        squares.append(spreads[-1] + 2 * float((q @ image).square().sum()))
        if not math.isfinite(total + squares[-1]):
            raise ArithmeticError("a product with the operator is not finite")
        # Welford's update: a difference of two sums would leave the rounding of large ones
        n = len(spreads)
        step = components - mean
        mean += step / n
        deviation += dot(step, components - mean)
        value = inside.trace + total / n
        variance = 2 * deviation / (n - 1) if n > 1 else math.inf
        agreed = False
        if n < FEWEST:  # components that agree may be a diagonal's, or agree by chance: the variance on the sphere then
            on_sphere = 2 * (float(np.mean(spreads)) - (total / n) ** 2 / (operator.size - len(q)))
            agreed = on_sphere > 2 * variance
            variance = on_sphere if agreed else variance
        stderr = math.sqrt(variance / n)
        if n >= FEWEST:
            aim = tolerance * abs(value)
            if stderr <= aim:
                break
            unknown = operator.size - len(q)
            needed = n * (stderr / aim) ** 2 if aim else math.inf
            if needed > unknown <= min(vectors - inside.products - n, room):
                return _exact(operator, replace(inside, products=inside.products + n))
    both = (inside.squares + float(np.mean(squares)), stderr_of(squares)) if squares else (inside.squares, 0.0)
    rounding = operator.rounding(math.sqrt(both[0])) + 2 * seen.crossed
    low, high = interval(value, stderr, spreads)
    if agreed:
        half = float(stdtrit(len(spreads) - 1, 0.975)) * stderr
        low, high = value - half, value + half
    products = inside.products + len(spreads)
    converged = stderr <= tolerance * abs(value)
    ends, around = (low - rounding, high + rounding), of_squares(inside.squares, squares)
    return TraceEstimate(value, stderr, *ends, *both, products, converged, method, *around)


def _exact(operator: LinearOperator, inside: Subspace) -> TraceEstimate:
    """tr QAQ' + tr RAR' with R an orthonormal row for every dimension that Q leaves."""
    q = inside.basis
    if len(q):
        rows = torch.linalg.qr(q.T, mode="complete")[0].T[len(q) :]
    else:
        rows = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
    value, squares = inside.trace, inside.squares
    seen = _Symmetry(operator)
    for row in rows:
        image = operator @ row
        seen.add(row, image)
        value += dot(row, image)
        squares += dot(image, image) + float((q @ image).square().sum())
        if not math.isfinite(value + squares):
            raise ArithmeticError("a product with the operator is not finite")
    # of P numbers, each a component of another product's error
    rounding = operator.rounding(math.sqrt(squares)) + 2 * math.sqrt(len(rows)) * seen.crossed
    products = inside.products + len(rows)
    return TraceEstimate(
        value,
        0.0,
        value - rounding,
        value + rounding,
        squares,
        0.0,
        products,
        True,
        "exact",
        squares,
        squares,
    )


class _Symmetry:
    """x'Ay against y'Ax for products one after the other.

    Raises:
        ArithmeticError: they are not the same.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.crossed = 0.0  # the largest difference; rounding, for a symmetric map
        self._operator = operator
        self._largest = 0.0  # length of a product
        self._before: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, vector: torch.Tensor, image: torch.Tensor) -> None:
        self._largest = max(self._largest, float(torch.linalg.vector_norm(image)))
        if self._before is not None:
            other, of_other = self._before
            self.crossed = max(self.crossed, abs(dot(other, image) - dot(vector, of_other)))
            lengths = math.sqrt(dot(other, other) * dot(vector, vector))
            reach = max(1.0, lengths / self._operator.size**0.5)
            require_symmetric(self._operator, self.crossed, self._largest, reach)
        self._before = vector, image


def _xtrace(operator: LinearOperator, vectors: int, tolerance: float, generator: torch.Generator) -> TraceEstimate:
    for found in leave_one_out(operator, vectors // 2, generator):
        value, stderr = float(found.traces.mean()), 0.0 if found.exact else stderr_of(found.traces)
        converged = stderr <= tolerance * abs(value)
        if len(found.traces) >= FEWEST and converged:
            break
    aside = operator.rounding(math.sqrt(max(float(found.squares.mean()), 0.0))) if found.exact else math.inf
    squares, spread = float(found.squares.mean()), 0.0 if found.exact else stderr_of(found.squares)
    ends = value - aside, value + aside
    around = (squares, squares) if found.exact else (-math.inf, math.inf)
    return TraceEstimate(value, stderr, *ends, squares, spread, found.products, converged, "xtrace", *around)
