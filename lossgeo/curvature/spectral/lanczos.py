"""Both ends of a spectrum in one Lanczos run, every pair with its errors; `stopping` says when it may stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import Krylov, combine, direction, outside
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.restart import SPARE, Ritz, Space
from lossgeo.curvature.spectral.stopping import Judged, Rule

NOISE = 0.05  # share of the random part in a warm start


@dataclass(frozen=True)
class Eigenpairs:
    """K eigenpairs, the extreme one first."""

    values: np.ndarray  # (K,) float64
    residuals: np.ndarray  # (K,) ||A y - value y|| and rounding; some eigenvalue lies within it of the value
    bounds: np.ndarray  # (K,) residual^2 / gap and rounding, at most the residual: `stopping` says when it holds
    converged: np.ndarray  # (K,) bool: within the tolerance, by its bound, and nothing before it hidden
    scales: np.ndarray  # (K,) what the tolerance is relative to: |value|, or more at the bottom of a semidefinite one
    vectors: torch.Tensor  # (K, P) orthonormal rows
    complete: bool  # nothing beyond the last value is missing; False: not looked for, or not for long enough

    def only_converged(self) -> Eigenpairs:
        """Those that have converged."""
        rows = torch.from_numpy(self.converged).to(self.vectors.device)
        values, residuals, bounds, converged, scales = (
            a[self.converged] for a in (self.values, self.residuals, self.bounds, self.converged, self.scales)
        )
        complete = self.complete and bool(self.converged.all())
        return Eigenpairs(values, residuals, bounds, converged, scales, self.vectors[rows], complete)


@dataclass(frozen=True)
class Ends:
    """The two ends of a spectrum."""

    top: Eigenpairs
    bottom: Eigenpairs
    products: int  # that finding them took, beyond those that the Krylov space had seen


def lanczos(
    krylov: Krylov,
    top: int,
    bottom: int,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    room: int | None = None,
    complete: bool = False,
) -> Ends:
    """The `top` largest and `bottom` smallest eigenpairs of a symmetric operator (fewer where P is smaller).

    A pair has converged when its error is at most tolerance * |value|, as far as its bound and the start vector can
    tell. At the bottom of a semidefinite operator, where it may be zero, |value| counts as 1% of ||A|| at least.
    Elsewhere a value that rounding does not tell from zero does not converge. The run ends when all pairs have
    converged or rounding lets them come no nearer, or after `max_products` products, those counted that `krylov` had
    taken before: the result does not depend on whether somebody else has extended it.

    The pairs are eigenvalues, but a Krylov space holds one copy of each. `complete`: look for others. The pairs are
    locked, and a fresh random vector orthogonal to them begins another part. What that finds beyond the last value
    joins the list and pushes others out, and another part begins, until one finds nothing. A residual says that there
    is an eigenvalue near, not that there is none beyond; that a part excludes by chance. Of an eigenvector orthogonal
    to the pairs, whose value is beyond the last one by more than the tolerance, its start vector has at most the
    component `Ritz.unseen`, and one as small as c has a chance of sqrt(2 P / pi) c. The part ends once that is
    `MISSED`, 1e-3. The bottom of a semidefinite operator is complete without it when the last value is zero.

    At most `room` rows are held at once, those of `krylov` included. When they are used up, the wanted Ritz vectors and
    as many again of what else is there replace them (thick restart); `krylov` then gives up its basis. When the space
    becomes invariant, the run looks for copies in any case, with a vector outside all of it.

    Cost: at most `max_products` products; one vector of memory each, or `room`, and the K that are returned.
    `complete`: about as many products again where no copy is missing, and once more for each round of copies.
    Source: Golub & Van Loan, 4th ed., section 10.1 to 10.3; Wu & Simon 2000, "Thick-restart Lanczos method"; for what
    a start vector can hide, van Dorsselaer, Hochstenbach & van der Vorst 2000.

    Raises:
        ArithmeticError: the operator returned a non-finite vector.
        ValueError: `room` is too small, or an earlier restart has taken the basis of `krylov`.
    """
    operator = krylov.operator
    before = operator.products
    size = operator.size - len(krylov.known)
    top, bottom = min(top, size), min(bottom, size)
    limit = min(size, max_products)
    least = min(limit, top + bottom + SPARE)
    if room is not None and room < least:
        raise ValueError(
            f"{top} top and {bottom} bottom eigenpairs need room for {least} vectors, not {room}: ask for fewer pairs, "
            "or give more memory"
        )
    space = Space(krylov, top, bottom, limit if room is None else min(room, limit), room is not None)
    rule = Rule(top, bottom, tolerance, size, operator.semidefinite)
    for products in range(1, max_products + 1):
        space.grow(generator)
        if space.full or products == max_products:
            break
        if space.rows < max(top, bottom):
            continue
        ritz = space.ritz()
        if not rule.ready(ritz, complete):
            continue
        if not (complete or space.part or space.coupling == 0.0):
            break
        ends = [(rule.judged(ritz, sign), sign) for sign in (1, -1)]
        beyond = [rule.beyond(ritz, *end) for end in ends]
        if all(end.complete for end in beyond):
            break
        if space.coupling > 0.0 and (space.part == 0 or any(end.more for end in beyond)):
            space.lock(ritz, np.unique(np.concatenate([end.where[end.settled] for end, _ in ends])))
    ritz = space.ritz()
    pairs = []
    for sign in (1, -1):
        end = rule.judged(ritz, sign)
        pairs.append(_pairs(ritz, space.basis, end, rule.beyond(ritz, end, sign).complete))
    return Ends(pairs[0], pairs[1], operator.products - before)


def warm_start(vectors: torch.Tensor, operator: LinearOperator, generator: torch.Generator) -> torch.Tensor:
    """A unit vector (P,) to start from where eigenvectors (K, P) of an operator close by are known.

    Their sum and a little noise, which holds what they do not.
    """
    known = vectors.to(operator.device, operator.dtype)
    start = known.sum(0) / max(1, len(known)) ** 0.5 + NOISE * direction(operator, generator)
    return outside(start, start.new_empty(0, operator.size))


def _pairs(ritz: Ritz, basis: torch.Tensor, end: Judged, complete: bool) -> Eigenpairs:
    return Eigenpairs(
        values=ritz.values[end.where],
        residuals=ritz.residuals[end.where] + ritz.rounding,
        bounds=end.bounds,
        converged=end.converged,
        scales=end.scales,
        vectors=combine(ritz.weights[:, end.where], basis),
        complete=complete,
    )
