"""Numbers with intervals: means over a few seeds, shares, spreads, correlations, exponents.

Every interval is of 95%, and none is given of fewer samples than FEWEST says: the number then stands alone. The forms
are closed ones for few samples. Resampling is not among them, for a bootstrap of n values knows a variance that is too
small by (n - 1) / n, and a normal quantile where Student's is due: of n = 5 it held a mean in 85%, a spread in 75%, the
exponent of a law in 75% of cases. tests/README.md has the coverage of each form, `python -m tests.bench.bench_coverage`
measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lossgeo.reports import plain
from lossgeo.tables import Row

# samples from which an interval is given, because it then holds the truth in 90 to 99% of cases; that of a share of
# fewer holds everything, and a median of fewer has none: 1 - 2 / 2^n is less than 95% up to n = 5
FEWEST = MappingProxyType(
    {
        "mean": 3,
        "share": 6,
        "root mean square": 5,
        "spread ratio": 5,
        "correlation": 5,
        "rank correlation": 6,
        "median": 6,
    }
)
TAIL = 0.025


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
    """Mean exponent over groups (few have no interval), and how many groups could not be fitted."""

    exponent: Estimate
    groups: int
    left_out: int


def in_words(form: str, of: str, counts: Iterable[int]) -> str:
    """What a picture and the note under a table say of intervals: "95% t intervals, n = 5".

    `of` is a key of FEWEST, `counts` are those of the samples; where none has enough of them, it says so.
    """
    found, fewest = sorted(set(counts)), FEWEST[of]
    n = f"n = {' to '.join(f'{count:,}' for count in dict.fromkeys((found[0], found[-1])))}" if found else "n = 0"
    if not found or found[-1] < fewest:
        return f"no intervals, {n}: below {fewest} there are none"
    return f"95% {form} intervals, {n}" + (f", none below {fewest}" if found[0] < fewest else "")


# --- means -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """Means of independent samples, what is known of their errors, and numbers that are linear in them."""

    values: np.ndarray  # (K,)
    variances: np.ndarray  # (K,) of the means, from n - 1 degrees of freedom each
    freedom: np.ndarray  # (K,)
    rounding: np.ndarray  # (K,) variances that are known

    @staticmethod
    def of(samples: Sequence[np.ndarray], grain: float = 0.0) -> Means | None:
        """None where a sample has too few values.

        Values that are counted, in units of `grain`, are known to half of it. Over samples whose spread s is far less,
        that error does not average out. It is uniform, of variance grain^2 / 12, at s = 0 and goes with the spread like
        exp(-4 pi^2 s^2 / grain^2), the square of the normal law's characteristic function.

        Source: Widrow & Kollar 2008, Quantization Noise, chapter 4.
        """
        sizes = np.array([len(sample) for sample in samples])
        if sizes.min() < FEWEST["mean"]:
            return None
        squares = np.array([np.var(sample, ddof=1) for sample in samples])
        coarse = grain**2 / 12 * np.exp(-4 * math.pi**2 * squares / grain**2) if grain else np.zeros(len(sizes))
        return Means(np.array([np.mean(sample) for sample in samples]), squares / sizes, sizes - 1.0, coarse)

    def away(self, weights: np.ndarray) -> tuple[float, float]:
        """weights . values, and the half-width of its interval: Student's, with Welch's degrees of freedom."""
        parts = weights**2 * self.variances
        variance = float(parts.sum() + weights**2 @ self.rounding)
        unknown = float((parts**2 / self.freedom).sum())
        freedom = variance**2 / unknown if unknown > 0 else math.inf
        return float(weights @ self.values), float(stats.t.isf(TAIL, freedom)) * math.sqrt(variance)

    def estimate(self, weights: np.ndarray) -> Estimate:
        """weights . values with its interval. Source: Welch 1947, Satterthwaite 1946."""
        value, aside = self.away(weights)
        return Estimate(value, value - aside, value + aside)


def mean(values: ArrayLike) -> Estimate:
    """The mean of the finite values with Student's interval; too few have none, and equal ones one of no width."""
    sample = np.asarray(values, dtype=float)
    sample = np.sort(sample[np.isfinite(sample)])  # one order, so that equal samples have equal sums
    if not len(sample):
        return Estimate()
    means = Means.of([sample])
    return Estimate(float(sample.mean())) if means is None else means.estimate(np.ones(1))


# --- shares, spreads and correlations --------------------------------------------------------------------------------


def share(count: int, of: int) -> Estimate:
    """A share with its exact interval, which holds the truth in at least 95% of cases; unknown of nothing.

    Source: Clopper & Pearson 1934.
    """
    if not of:
        return Estimate()
    if of < FEWEST["share"]:
        return Estimate(count / of)
    ends = stats.binomtest(count, of).proportion_ci(1 - 2 * TAIL, method="exact")
    return Estimate(count / of, ends.low, ends.high)


def root_mean_square(values: np.ndarray) -> Estimate:
    """The root of the mean square, with the chi-square interval of a normal sample; too few have none.

    The degrees of freedom are n, or as many fewer as the values are more long-tailed than normal ones: 2 n / (k - 1),
    where k is the kurtosis about zero, freed of its bias in a normal sample.
    """
    n = len(values)
    if n < FEWEST["root mean square"]:
        return Estimate()
    squares = np.square(values)
    square = float(squares.mean())
    freedom = _freedom(squares, n, (n + 2) / n)
    low, high = (math.sqrt(square * freedom / stats.chi2.isf(tail, freedom)) for tail in (TAIL, 1 - TAIL))
    return Estimate(math.sqrt(square), low, high)


def spread_ratio(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """The ratio of two standard deviations with the F interval; unknown of too few values.

    Degrees of freedom as in `root_mean_square`, from n - 1 down. A sample over itself is 1 and has no interval.
    """
    if min(len(values), len(reference)) < FEWEST["spread ratio"] or np.ptp(reference) == 0:
        return Estimate()
    found = float(np.std(values, ddof=1) / np.std(reference, ddof=1))
    if np.array_equal(values, reference) or np.ptp(values) == 0:
        return Estimate(found)
    above, below = (
        _freedom(np.square(sample - sample.mean()), len(sample) - 1, (len(sample) + 1) / (len(sample) - 1))
        for sample in (values, reference)
    )
    low, high = (found / math.sqrt(stats.f.isf(tail, above, below)) for tail in (TAIL, 1 - TAIL))
    return Estimate(found, low, high)


def _freedom(squares: np.ndarray, most: int, unbiased: float) -> float:
    """The degrees of freedom of a mean of squares: 2 mean^2 over its variance, and no more than of a normal law."""
    square = float(squares.mean())
    if square == 0:
        return float(most)
    kurtosis = unbiased * float(np.square(squares).mean()) / square**2
    return most * min(1.0, 2 / (kurtosis - 1))


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation with the interval of Fisher's transform.

    Unknown of too few finite pairs, or where one of them is constant.
    """
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < FEWEST["correlation"] or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return Estimate()
    found = stats.pearsonr(x[both], y[both])
    ends = found.confidence_interval(1 - 2 * TAIL)
    return Estimate(found.statistic, ends.low, ends.high)


def spearman(x: np.ndarray, y: np.ndarray) -> Estimate:
    """The rank correlation; unknown of too few pairs, or where one of them is constant.

    Fisher's transform with the standard error sqrt((1 + rho^2 / 2) / (n - 3)). Order without exception is no certainty:
    for the interval rho is at most halfway to 1 from the order with one neighboring pair exchanged.

    Source: Bonett & Wright 2000, Sample size requirements for estimating Pearson, Kendall and Spearman correlations.
    """
    n = len(x)
    if n < FEWEST["rank correlation"] or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate()
    found = float(stats.spearmanr(x, y).statistic)
    most = 1 - 6 / (n**3 - n)
    within = min(max(found, -most), most)
    aside = float(stats.norm.isf(TAIL)) * math.sqrt((1 + within**2 / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(within) + side) for side in (-aside, aside))
    return Estimate(found, min(low, found), max(high, found))


# --- exponents --------------------------------------------------------------------------------------------------------


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
