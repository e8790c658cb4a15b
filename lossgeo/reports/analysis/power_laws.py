"""How a time depends on a setting: T = a + b (x^e - 1) / e, whose limit at e = 0 is a logarithm.

A slope in log-log axes would call every logarithm a small power, since ln(1/x) is one locally. With the constant a, the
three laws of escape (logarithm, first and second power of the distance) are three values of e, and a fit tells them
apart.

Intervals resample nothing: a, b and the equation that e solves are linear in the mean times of the settings, whose
errors Student's law knows. A percentile bootstrap held the exponent in 65 to 83% of cases below 10 trials a setting.

Source: Box & Cox 1964, for the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar

from lossgeo.reports.analysis.intervals import Estimate, Means

LARGEST = 5.0  # exponents are looked for between -5 and 5
NEAR = 0.25  # from a whole number, within which a law has its name
STEP = 1.0  # times are counted in whole steps
NEXT = 0.01  # of an exponent, in which the end of its interval is looked for at first


@dataclass(frozen=True)
class Law:
    """The fitted exponent e, and the slope of the law that is named."""

    name: str  # logarithm, power 1, power -2, ...; "none" where e is close to no whole number
    exponent: Estimate
    slope: Estimate  # of T = a + b ln x, or a + b x^k; unknown for none of them


def law(x: ArrayLike, times: Sequence[np.ndarray]) -> Law | None:
    """The law of the times of trials at each of at least four settings x > 0; None where there are fewer.

    The fit is to mean times, by least squares. Fewer trials than a mean needs, at any setting, leave numbers without
    intervals; trials that all take the same time leave the rounding to whole steps. An end that lies beyond the
    exponents that are looked for is unknown.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 4 or (at <= 0).any() or any(len(t) == 0 for t in times):
        return None
    mean = np.array([np.mean(sample) for sample in times])
    known = Means.of(times, STEP)
    exponent = _exponent(at, mean)
    with_ends = Estimate(exponent, *(_end(at, known, exponent, sign) for sign in (-1, 1)) if known else ())
    power = round(exponent)
    if abs(exponent - power) > NEAR:
        return Law("none", with_ends, Estimate())
    _, slope = _line(at, float(power))
    name = "logarithm" if power == 0 else f"power {power}"
    return Law(name, with_ends, known.estimate(slope) if known else Estimate(float(slope @ mean)))


def limit(x: ArrayLike, values: Sequence[np.ndarray], exponent: float) -> Estimate:
    """The value a that a + b x^exponent goes to for a negative exponent.

    `values` are those of runs at each of at least three settings x > 0; with fewer the limit is unknown. The fit is to
    means, by least squares; it has an interval where there are as many runs at every setting as a mean needs.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 3 or any(len(v) == 0 for v in values):
        return Estimate()
    asymptote, _ = _line(at, exponent)
    known = Means.of(values)
    return known.estimate(asymptote) if known else Estimate(float(asymptote @ [np.mean(v) for v in values]))


def _exponent(x: np.ndarray, times: np.ndarray) -> float:
    def misfit(e: float) -> float:
        (a, b), shape = _line(x, e), _shape(x, e)
        return float(((times - a @ times - (b @ times) * shape) ** 2).sum())

    found = minimize_scalar(misfit, bounds=(-LARGEST, LARGEST), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def _end(x: np.ndarray, means: Means, fitted: float, sign: int) -> float | None:
    """The end of the exponent's interval on one side: where e is no longer compatible with the means.

    The fit at e leaves a rest orthogonal to 1 and x^e; least squares choose the e where that rest is orthogonal to
    d(x^e) / de too. So e is compatible where the means, in the direction c(e) of this derivative off 1 and x^e, differ
    from zero by no more than Student's quantile. Fieller's argument: the interval is that of a linear number, however
    bent the exponent is.

    Source: Fieller 1954; Box & Cox 1964 for the derivative in e.
    """

    def apart(e: float) -> float:
        value, aside = means.away(_turned(x, e))
        return abs(value) - aside

    inside, step = fitted, NEXT
    while apart(inside) <= 0 and abs(inside) < LARGEST:
        outside = max(-LARGEST, min(inside + sign * step, LARGEST))
        if apart(outside) > 0:
            return float(brentq(apart, inside, outside, xtol=1e-9))
        inside, step = outside, 1.3 * step
    return None


def _shape(x: np.ndarray, e: float) -> np.ndarray:
    shape: np.ndarray = np.log(x) if abs(e) < 1e-9 else x**e
    return shape


def _line(x: np.ndarray, e: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights (K,) of the times in a and b of T = a + b x^e, or a + b ln x for e = 0."""
    shape = _shape(x, e)
    away = shape - shape.mean()
    b = away / (away @ away)
    return 1 / len(x) - shape.mean() * b, b


def _turned(x: np.ndarray, e: float) -> np.ndarray:
    """The direction (K,) in which the shape turns with e, off the constant and the shape itself."""
    u = np.log(x)
    # d/de of (x^e - 1) / e is, but for parts of 1 and x^e, x^e ln x; at e = 0 it is ln(x)^2 / 2
    turning = u**2 if abs(e) < 1e-4 else x**e * u
    flat = np.stack([np.ones_like(x), u if abs(e) < 1e-4 else x**e], axis=1)
    flat, _ = np.linalg.qr(flat / np.linalg.norm(flat, axis=0))
    direction: np.ndarray = turning - flat @ (flat.T @ turning)
    return direction
