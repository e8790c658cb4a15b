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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import stdtrit

from lossgeo.curvature.spectral.krylov import Krylov, direction, dot, orthogonal
from lossgeo.curvature.spectral.lanczos import Eigenpairs
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.xtrace import leave_one_out, new_direction

Method = Literal["auto", "hutchinson", "hutch_plus_plus", "xtrace", "deflated"]

FEWEST = 4  # vectors before an error is believed: that of two is zero in half of all cases where one B_ij dominates
ENOUGH = 12  # products from which half of them are better spent on a Krylov space
STEPS = 20  # of that space at the most: best at 60 products on two digits networks, within 6% of the best at 120


@dataclass(frozen=True)
class TraceEstimate:
    """tr A with its standard error and 95% interval, and ||A||_F^2 = tr A^2, which the same products give.

    An infinite end is unknown: those of xtrace, whose standard error is too small where a spectrum decays (80 to 87% of
    its intervals held the truth), and those of the squares from few vectors.
    """

    value: float
    stderr: float  # infinite from a single vector
    low: float
    high: float
    squares: float
    squares_stderr: float  # over vectors
    products: int
    converged: bool  # stderr <= tolerance * |value|
    method: str  # the one that was used
    squares_low: float = -math.inf
    squares_high: float = math.inf


@dataclass(frozen=True)
class Inside:
    """A subspace in which the operator is known, which leaves (I - Q'Q) A (I - Q'Q) to be sampled."""

    basis: torch.Tensor  # (K, P), the orthonormal rows Q
    trace: float  # of Q A Q'
    squares: float  # ||Q A Q'||_F^2
    products: int  # spent on finding it


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

    `known` serves deflated and auto alone. Vectors held: K known, or 20, or a third of the products, or for xtrace 1.5
    times them; less where `operator.room` is less.

    Source: Hutchinson 1990; Avron & Toledo 2011, lemma 9 (the variance); Chen & Hallman 2023, "Krylov-aware stochastic
    trace estimation"; Meyer, Musco, Musco & Woodruff 2021, Algorithm 1; Epperly, Tropp & Webber 2024, "XTrace".

    Raises:
        ArithmeticError: the operator returned a non-finite vector.
        ValueError: fewer products than the method can do with.
    """
    if known is not None and not len(known.values):
        known = None
    if method == "auto":
        method = "deflated" if known is not None or vectors >= ENOUGH else "hutchinson"
    if vectors < (least := 4 if method == "xtrace" else 1):
        raise ValueError(f"{method} needs {least} products, not {vectors}")
    if method == "xtrace":
        return _xtrace(operator, vectors, tolerance, generator)
    room = vectors if operator.room is None else operator.room
    if method == "hutch_plus_plus":
        inside = _sketch(operator, min(vectors // 3, (vectors - 2) // 2, room), generator)
    elif method == "hutchinson":
        inside = _nothing(operator)
    elif known is not None:
        inside = _eigenvectors(operator, known)
    else:
        steps = operator.size if operator.size <= vectors else min(vectors // 2, vectors - 2)
        inside = _krylov(operator, min(steps, STEPS, room), generator)
    return _sampled(operator, inside, method, vectors, tolerance, generator)


def interval(value: float, stderr: float, spreads: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """value +- t stderr at 95%, where stderr^2 is proportional to the mean of n `spreads`, themselves estimates.

    Satterthwaite's degrees of freedom, 2 mean^2 / Var mean, and no fewer than n - 1. For one dominant eigenvalue they
    come to n, for a flat spectrum to so many that t is 1.96.
    """
    n = len(spreads)
    if n < 2 or stderr == 0.0:
        return value - stderr, value + stderr
    variance = float(np.var(spreads, ddof=1)) / n
    freedom = max(n - 1.0, 2 * float(np.mean(spreads)) ** 2 / max(variance, 1e-300))
    half = float(stdtrit(freedom, 0.975)) * stderr
    return value - half, value + half


def of_squares(fixed: float, squares: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of `fixed` + the mean of n positive numbers, mean / (1 +- t stderr / (2 mean))^2.

    That is Student's of mean^(-1/2): squares are skew, the more so the fewer eigenvalues dominate, and their inverse
    root is less. It holds ||A||_F^2 in 92 to 96% of cases; mean +- 1.96 stderr in 75 to 83% at n = 4, 82 to 90% at 8.
    """
    n = len(squares)
    if n < FEWEST:
        return (-math.inf, math.inf) if n else (fixed, fixed)
    mean = float(np.mean(squares))
    half = float(stdtrit(n - 1, 0.975)) * _stderr(squares) / (2 * mean) if mean else 0.0
    return fixed + mean / (1 + half) ** 2, fixed + mean / (1 - half) ** 2 if half < 1 else math.inf


# --- sampling what is not known --------------------------------------------------------------------------------------


def _sampled(
    operator: LinearOperator,
    inside: Inside,
    method: str,
    vectors: int,
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
    while len(q) < operator.size and inside.products + len(spreads) < vectors:
        z = _signs(operator, generator)
        image = operator @ orthogonal(z, q)
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
        stderr = math.sqrt(2 * deviation / (n - 1) / n) if n > 1 else math.inf
        if n >= FEWEST and stderr <= tolerance * abs(value):
            break
    low, high = interval(value, stderr, spreads)
    both = (inside.squares + float(np.mean(squares)), _stderr(squares)) if squares else (inside.squares, 0.0)
    products, converged = inside.products + len(spreads), stderr <= tolerance * abs(value)
    ends = of_squares(inside.squares, squares)
    return TraceEstimate(value, stderr, low, high, *both, products, converged, method, *ends)


def _xtrace(operator: LinearOperator, vectors: int, tolerance: float, generator: torch.Generator) -> TraceEstimate:
    for found in leave_one_out(operator, vectors // 2, generator):
        value, stderr = float(found.traces.mean()), 0.0 if found.exact else _stderr(found.traces)
        converged = stderr <= tolerance * abs(value)
        if len(found.traces) >= FEWEST and converged:
            break
    aside = 0.0 if found.exact else math.inf
    squares, spread = float(found.squares.mean()), 0.0 if found.exact else _stderr(found.squares)
    ends, around = (value - aside, value + aside), (squares - aside, squares + aside)
    return TraceEstimate(value, stderr, *ends, squares, spread, found.products, converged, "xtrace", *around)


def _signs(operator: LinearOperator, generator: torch.Generator) -> torch.Tensor:
    bits = torch.randint(0, 2, (operator.size,), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(operator.device, operator.dtype)


def _stderr(samples: Sequence[float] | np.ndarray) -> float:
    return float(np.std(samples, ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else math.inf


# --- what to know ----------------------------------------------------------------------------------------------------


def _nothing(operator: LinearOperator) -> Inside:
    empty = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
    return Inside(empty, 0.0, 0.0, 0)


def _eigenvectors(operator: LinearOperator, known: Eigenpairs) -> Inside:
    """Ritz pairs: the values are u'Au and no vector couples to another, converged or not."""
    basis = known.vectors.to(operator.device, operator.dtype)
    return Inside(basis, math.fsum(known.values), math.fsum(known.values**2), 0)


def _krylov(operator: LinearOperator, steps: int, generator: torch.Generator) -> Inside:
    """A product a row, since the next row is the product with the last one."""
    if steps < 1:
        return _nothing(operator)
    space = Krylov(operator, direction(operator, generator))
    while space.steps < steps and not space.invariant:
        space.extend()
    alpha, beta = np.array(space.alpha), np.array(space.beta[:-1])
    squares = float((alpha**2).sum() + 2 * (beta**2).sum())
    return Inside(space.basis, math.fsum(space.alpha), squares, space.steps)


def _sketch(operator: LinearOperator, columns: int, generator: torch.Generator) -> Inside:
    """Two products a row: A z, and A times what is new in it. Fewer rows where the range of A is exhausted."""
    inside = _nothing(operator)
    q, total, squares, products = inside.basis, 0.0, 0.0, 0
    for _ in range(columns):
        row = new_direction(operator @ _signs(operator, generator), q)
        products += 1
        if row is None:
            break
        image = operator @ row
        products += 1
        form = dot(row, image)
        total, squares = total + form, squares + form**2 + 2 * float((q @ image).square().sum())
        q = torch.cat([q, row[None]])
    return Inside(q, total, squares, products)
