"""Numbers with intervals: means over a few seeds, shares, correlations, exponents.

The interval of a mean is Hesterberg's expanded percentile interval. The plain percentile bootstrap is too short for the
5 to 10 seeds that an experiment has, by a factor sqrt((n - 1) / n) z / t; the percentiles are moved outwards until a
normal sample gets Student's width.

    Coverage of a stated 95%, in 4,000 samples a cell (standard error 0.4%), expanded | plain percentile:
                              n = 2     n = 3     n = 4     n = 5     n = 10
    normal                   50 | 50   76 | 76   88 | 80   93 | 85   94 | 90
    lognormal, sigma 0.25    50 | 50   74 | 74   87 | 80   91 | 83   94 | 89
    lognormal, sigma 0.5     48 | 48   74 | 74   84 | 76   89 | 80   93 | 88
    lognormal, sigma 1       42 | 42   63 | 63   75 | 67   81 | 72   85 | 80

Below n = 5 an interval of resampled means is at most the range of the sample, which holds the mean of a symmetric law
with probability 1 - 2^(1 - n): reports say so beside the number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lossgeo.reports import plain
from lossgeo.tables import Row

FEWEST = 5  # values from which the interval holds what it promises
RESAMPLES = 2_000
FOR_A_MEAN = 10_000  # at n = 5 the expanded tail is 0.1%, that is 10 resamples


@dataclass(frozen=True)
class Estimate:
    """A number with the two ends of its interval, which is of 95% unless said otherwise; None is unknown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def map(self, scale: Callable[[float], float | None]) -> Estimate:
        """The same on another scale; `scale` is increasing."""
        return Estimate(*(None if x is None else scale(x) for x in (self.value, self.low, self.high)))

    def columns(self, name: str) -> Row:
        """The columns name, name_low, name_high."""
        return {name: plain(self.value), f"{name}_low": plain(self.low), f"{name}_high": plain(self.high)}


@dataclass(frozen=True)
class Slope:
    """Mean exponent over groups (one group has no interval), and how many groups could not be fitted."""

    exponent: Estimate
    groups: int
    left_out: int


def bootstrap(
    statistic: Callable[..., ArrayLike],
    *samples: np.ndarray,
    resamples: int = RESAMPLES,
    batch: int | None = None,
    tail: float = 0.025,
) -> tuple[float, float]:
    """The percentiles `tail` and 1 - `tail` of a statistic over resamples of independent samples.

    A sample is resampled along its first axis: pairs are an array (n, 2). `statistic` takes `batch` resamples of every
    sample at a time, stacked (batch, n, ...), by default all, and gives as many numbers; NaN does not count. Equal
    samples give equal ends, in whichever order they stand and whatever was drawn before.
    """
    # in one order, so that an interval over runs does not depend on how their ids sort
    samples = tuple(np.sort(x) if x.ndim == 1 else x[np.lexsort(x.T)] for x in samples)
    stream, size = np.random.default_rng(0), batch or resamples
    batches = (
        statistic(*(x[stream.integers(len(x), size=(size, len(x)))] for x in samples)) for _ in range(resamples // size)
    )
    found = np.hstack(list(batches))
    low, high = np.percentile(found[~np.isnan(found)], [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def mean(values: ArrayLike) -> Estimate:
    """The mean of the finite values with its expanded percentile interval; one value has no interval.

    Percentiles a'/2 and 1 - a'/2 of the bootstrap means, with Phi^-1(a'/2) = -sqrt(n / (n - 1)) t_{n-1, 0.025}. The
    same values give the same interval, in any order.

    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American Statistician 69(4).
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    n = len(sample)
    if n < 2:
        return Estimate(*sample.tolist())
    tail = float(stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.isf(0.025, n - 1)))  # a' / 2
    ends = bootstrap(lambda x: x.mean(axis=1), np.sort(sample), resamples=FOR_A_MEAN, tail=tail)
    return Estimate(float(sample.mean()), *ends)


def share(count: int, of: int) -> Estimate:
    """A share with its exact 95% interval; unknown of nothing.

    Source: Clopper & Pearson 1934.
    """
    if not of:
        return Estimate()
    ends = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return Estimate(count / of, ends.low, ends.high)


def root_mean_square(values: np.ndarray) -> Estimate:
    """The root of the mean square; unknown of fewer than five values."""
    if len(values) < FEWEST:
        return Estimate()
    squares = np.square(values)
    return Estimate(float(np.sqrt(squares.mean())), *bootstrap(lambda x: np.sqrt(x.mean(axis=1)), squares))


def spread_ratio(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """The ratio of two standard deviations; unknown of fewer than five values.

    The two are resampled apart, so that a sample over itself has an interval too.
    """
    if min(len(values), len(reference)) < FEWEST or np.ptp(reference) == 0:
        return Estimate()

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        spread = np.std(below, axis=1, ddof=1)
        ratios: np.ndarray = np.std(above, axis=1, ddof=1) / np.where(spread > 0, spread, np.nan)
        return ratios

    found = np.std(values, ddof=1) / np.std(reference, ddof=1)
    return Estimate(float(found), *bootstrap(ratio, values, reference))


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation with the 95% interval of Fisher's transform.

    Unknown of fewer than five finite pairs, or where one of them is constant.
    """
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < FEWEST or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return Estimate()
    found = stats.pearsonr(x[both], y[both])
    ends = found.confidence_interval(0.95)
    return Estimate(found.statistic, ends.low, ends.high)


def spearman(x: np.ndarray, y: np.ndarray) -> Estimate:
    """The rank correlation; unknown of fewer than five pairs, or where one of them is constant."""
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate()

    def rho(pairs: np.ndarray) -> np.ndarray:
        ranks = (stats.rankdata(pairs[..., column], axis=1) for column in (0, 1))
        u, v = (r - r.mean(axis=1, keepdims=True) for r in ranks)
        spread = np.sqrt((u * u).sum(axis=1) * (v * v).sum(axis=1))
        found: np.ndarray = (u * v).sum(axis=1) / np.where(spread > 0, spread, np.nan)
        return found

    return Estimate(float(stats.spearmanr(x, y).statistic), *bootstrap(rho, np.stack([x, y], axis=1)))


def loglog_slope(x: ArrayLike, y: ArrayLike, groups: Sequence[Hashable]) -> Slope | None:
    """The exponent a of y ~ x^a: least squares of log y on log x within each group (a seed), mean over groups.

    Fitting within seeds keeps what a seed shares over all x (its data order, its start) out of the error. A point that
    has no logarithm cannot be used; a group with fewer than two different x is left out and counted. None if all are.
    """
    at, of = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    usable = np.isfinite(at) & np.isfinite(of) & (at > 0) & (of > 0)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    number = np.array([numbers[group] for group in groups], dtype=int)[usable]
    u, v = np.log(at[usable]), np.log(of[usable])

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(number, weights, minlength=len(numbers))

    points = np.maximum(total(np.ones_like(u)), 1.0)
    du, dv = u - (total(u) / points)[number], v - (total(v) / points)[number]
    spread = total(du * du)
    # equal x differ by rounding alone after the mean is taken off; the next different integer x would give far more
    fitted = spread > 1e-20
    if not fitted.any():
        return None
    slopes = total(du * dv)[fitted] / spread[fitted]
    return Slope(mean(slopes), int(fitted.sum()), int((~fitted).sum()))
