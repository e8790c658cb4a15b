"""Times until something happens, where some trials were watched for too short a time to see it.

The statistics are scipy's; the median with its interval is read off here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lossgeo.reports.analysis.intervals import Estimate


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier curve of some trials, and when half of them are over."""

    times: np.ndarray  # (K,) ascending
    alive: np.ndarray  # (K,) share that is not over after each
    low: np.ndarray  # (K,) its 95% interval
    high: np.ndarray
    median: Estimate  # unknown where fewer than half are over


def survival(times: ArrayLike, censored: ArrayLike) -> Survival:
    """The curve of trials from their times (n,) and which are right-censored there; n at least 1.

    The interval of the curve is the log-log transformed one of Greenwood's variance, that of the median the times at
    which the interval's ends pass 1/2.

    Source: Kaplan & Meier 1958; Brookmeyer & Crowley 1982 for the median's interval.
    """
    at, cut = np.asarray(times, dtype=float), np.asarray(censored, dtype=bool)
    if cut.all():
        ends, ones = np.unique(at), np.ones(len(np.unique(at)))
        return Survival(ends, ones, ones, ones, Estimate())
    curve = stats.ecdf(stats.CensoredData(uncensored=at[~cut], right=at[cut])).sf
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is seen to below
        interval = curve.confidence_interval(method="log-log")
    alive = curve.probabilities
    # where nothing or everything is over the transform is undefined, and there is no doubt
    low, high = (
        np.where(np.isfinite(end.probabilities), end.probabilities, alive) for end in (interval.low, interval.high)
    )
    median = Estimate(*(_passes(curve.quantiles, values) for values in (alive, low, high)))
    return Survival(curve.quantiles, alive, low, high, median)


def _passes(times: np.ndarray, alive: np.ndarray) -> float | None:
    (over,) = np.nonzero(alive <= 0.5)
    return float(times[over[0]]) if len(over) else None


def logrank(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> float | None:
    """The two-sided p-value of the log-rank test that two groups of (times, censored) follow one law; None: no test."""
    samples = [(np.asarray(times, dtype=float), np.asarray(cut, dtype=bool)) for times, cut in (first, second)]
    if all(cut.all() for _, cut in samples):
        return None
    groups = [stats.CensoredData(uncensored=at[~cut], right=at[cut]) for at, cut in samples]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = float(stats.logrank(*groups).pvalue)
    return p if np.isfinite(p) else None
