"""When a Lanczos run may stop, and what its pairs are off by.

Two things can be wrong with a value. It may not have converged: then residual^2 / gap
says by how much. Or the start vector holds so little of an eigenvector that its eigenvalue is missed, and a neighbor
stands in its place. No residual shows that, but how little it must be is known. With s the start vector's component
along a Ritz vector of value t and residual r, the next Lanczos vector p(A) v_1 of length 1 has, close to t,

    p(x) = (x - t) / (s r),        so a component b along an eigenvector of value x has   |b| <= s r / |x - t|,

and of a start vector uniform over P directions that is true by a chance of about sqrt(P) s r / |x - t|. Neighbors are
expected at the distances at which neighbors are seen. So the run goes on until, at either end,

    residual^2 / gap <= tolerance * |value|     and     sum of sqrt(P) s r (1 / gap below + 1 / gap above) <= HIDDEN.

By tests/bench/bench_stopping.py, on 96 Hessians of small networks (P of 610 to 1,210) with six start vectors each, the
runs in which any value was off by more than the tolerance, and the products over those of an oracle that stops as soon
as all are right for good; in parentheses, of the rule that the residual is within the tolerance:

    top  bottom   tolerance   wrong of 576   over oracle
      1       0        1e-2        0   (4)   1.61 (1.33)
      1       0        1e-3        1   (0)   1.33 (1.38)
      1       0        1e-6        0   (0)   1.05 (1.40)
      5       0        1e-2        2  (36)   1.35 (1.12)
      5       0        1e-3        2  (10)   1.24 (1.16)
      5       0        1e-6        2   (0)   1.05 (1.23)
     10       0        1e-2        2  (95)   1.28 (1.05)
     10       0        1e-3        2  (65)   1.20 (1.10)
     10       0        1e-6        2   (3)   1.06 (1.19)
      1       1        1e-2        6   (7)   1.58 (1.31)
      1       1        1e-3        4   (0)   1.32 (1.33)
      1       1        1e-6        0   (0)   1.07 (1.33)
      5       1        1e-2        4  (10)   1.52 (1.26)
      5       1        1e-3        2   (0)   1.31 (1.29)
      5       1        1e-6        0   (0)   1.07 (1.30)

No wrong run at up to 1.25 was the aim: only k = 1 at 1e-6 reaches both, and from 1e-3 on one run in 150 to 600 is wrong
elsewhere. At 1e-6 the residual rule is dearer and, of five values, more often right. Six runs share a Hessian, so that
wrong ones come in clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lossgeo.curvature.spectral.restart import Ritz

HIDDEN = 5e-3  # the sum up to which nothing is taken to be hidden: a scale for chances, not itself one
NEAR = 1e-4  # neighbors closer than this share of a value count as that far: a dense edge is not told apart further
FLOOR = 1e-2  # share of the norm that the bottom of a semidefinite operator, which may be zero, is held against
CAP = 3.0  # sqrt(P) s at the most: a random start has more in 0.3% of directions, a warm one in those it knows
MISSED = 1e-3  # the chance that a part has passed over a missing copy, at which it has looked for long enough


@dataclass(frozen=True)
class Judged:
    """The pairs wanted of one end, the extreme one first, as far as they are known."""

    where: np.ndarray  # (K,) among the Ritz values
    bounds: np.ndarray  # (K,) with the rounding
    scales: np.ndarray  # (K,) what the tolerance is relative to
    converged: np.ndarray  # (K,) bool
    settled: np.ndarray  # (K,) bool: converged, or as near as rounding lets it come


class Beyond(NamedTuple):
    """What is known of eigenvalues beyond the last one of an end."""

    complete: bool  # that none is missing
    more: bool  # that the present part has one, and so may hide a copy of it


@dataclass(frozen=True)
class Rule:
    """What is asked of the two ends of an operator on `size` dimensions."""

    top: int
    bottom: int
    tolerance: float
    size: int
    semidefinite: bool

    def judged(self, ritz: Ritz, sign: int) -> Judged:
        """The top (sign 1) or the bottom (-1)."""
        count = self.top if sign > 0 else self.bottom
        outside_in = slice(None, None, -sign)
        norm, rounding = float(np.abs(ritz.values).max()), ritz.rounding
        values, residuals, components = (
            a[outside_in][: count + 1] for a in (ritz.values, ritz.residuals, ritz.components)
        )
        sizes = np.abs(values[:count])
        may_be_zero = self.semidefinite and sign < 0
        least = FLOOR * norm if may_be_zero else rounding
        scales = np.maximum(sizes, least) if may_be_zero else sizes
        bounds = _bounds(sign * values, residuals, sizes)
        if may_be_zero:  # by Cauchy's interlacing no Ritz value is below its eigenvalue, and that not below zero
            bounds = np.minimum(bounds, np.maximum(values[:count], 0.0))
        chances = np.minimum(CAP, self.size**0.5 * np.abs(components)) * residuals
        near = _nearness(sign * values, np.maximum(NEAR * scales, rounding), scales)
        hidden = chances[: len(sizes)] * near
        if may_be_zero:
            hidden = np.where(sizes <= least, 0.0, hidden)
        # one that rounding does not tell from zero may be hidden behind another such, but others not behind it
        own = np.where(sizes <= least, 0.0, hidden)
        seen = np.cumsum(hidden) - hidden + own <= HIDDEN
        converged = seen & (bounds + rounding <= self.tolerance * scales)
        return Judged(
            where=np.arange(len(ritz.values))[outside_in][:count],
            bounds=bounds + rounding,
            scales=scales,
            converged=converged,
            settled=converged | (seen & (bounds <= rounding)),
        )

    def beyond(self, ritz: Ritz, end: Judged, sign: int) -> Beyond:
        """What lies beyond the last value by more than the tolerance and what rounding tells apart."""
        if ritz.full or not len(end.where):
            return Beyond(complete=True, more=False)
        line = ritz.values[end.where[-1]] + sign * max(self.tolerance * end.scales[-1], 2 * ritz.rounding)
        if self.semidefinite and sign < 0 and line <= 0.0:
            return Beyond(complete=True, more=False)
        extreme = ritz.values[ritz.present][-1 if sign > 0 else 0]
        more = bool(sign * (extreme - line) > 0.0)
        if more or not ritz.later:
            return Beyond(complete=False, more=more)
        dimensions = self.size - int((~ritz.present).sum())
        chance = (2 * dimensions / np.pi) ** 0.5 * ritz.unseen(line)
        return Beyond(complete=chance <= MISSED, more=False)

    def ready(self, ritz: Ritz, complete: bool) -> bool:
        """Whether the present part has given what it has to give.

        Where copies are looked for, a zero that a part has found at the bottom of a semidefinite operator is enough:
        further zeros are likely, and not in this part.
        """
        if self.top and not self.judged(ritz, 1).settled.all():
            return False
        if not self.bottom:
            return True
        bottom = self.judged(ritz, -1)
        found = bool(bottom.settled.all())
        if complete and self.semidefinite and not found:
            zero = self.tolerance * FLOOR * float(np.abs(ritz.values).max())
            of_part = np.flatnonzero(ritz.present[bottom.where])[:1]
            found = bool((bottom.settled[of_part] & (ritz.values[bottom.where[of_part]] <= zero)).any())
        return found


def _bounds(values: np.ndarray, residuals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """min(residual, residual^2 / gap) for K Ritz values, descending, of these sizes; the gap is to the next one.

    For an eigenvalue x, a Ritz value t <= x and any a < t with no eigenvalue between a and x: x - t <= r^2 / (t - a),
    and by Cauchy's interlacing the j-th Ritz value is at most the j-th eigenvalue. The a taken is the next Ritz value
    and its residual. So the bound holds once that stands above the next eigenvalue, which it cannot know of one that is
    hidden or on its way. Where that a leaves no gap, or one smaller than the residual, the bound is the residual.
    No gap counts as wider than the value itself: with -1000 alone at the bottom the first Ritz values are it and one in
    the middle of all others, and their distance says nothing of those.

    Source: Kato 1949 and Temple; Parlett 1998, sections 10.1 and 10.5.
    """
    bounds = residuals[: len(sizes)].copy()
    gaps = np.minimum(values[:-1] - values[1:] - residuals[1:], sizes[: len(values) - 1])
    sharper = np.flatnonzero(gaps > residuals[:-1])
    bounds[sharper] *= residuals[sharper] / gaps[sharper]
    return bounds


def _nearness(values: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """1 / gap below + 1 / gap above for Ritz values, descending, gaps of `least` at least and `most` at the most.

    Above the first one nothing is seen: what is below it stands for that. Below the last one too, where it is the last
    that is known.
    """
    between = values[:-1] - values[1:]
    below = np.append(between, np.zeros(len(least)))[: len(least)]
    tiny = np.finfo(np.float64).tiny  # of the zero operator
    nearness: np.ndarray = 1.0 / np.maximum(np.maximum(np.minimum(below, most), least), tiny)
    nearness[1:] += 1.0 / np.maximum(np.maximum(np.minimum(below[:-1], most[1:]), least[1:]), tiny)
    return nearness
