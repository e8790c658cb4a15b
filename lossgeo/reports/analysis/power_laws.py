"""How a time depends on a setting: T = a + b (x^e - 1) / e, whose limit at e = 0 is a logarithm.

The decision a reader would question: a slope in log-log axes would call every logarithm a small power, since ln(1/x)
is one locally. With the constant a and the family above, the three laws of escape (logarithm, first and second power of
the distance) are three values of e, and a fit can tell them apart.

Source: Box & Cox 1964, for the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

LARGEST = 5.0  # exponents are looked for between -5 and 5
NEAR = 0.25  # from a whole number, within which a law has its name
RESAMPLES = 200


@dataclass(frozen=True)
class Law:
    """The fitted exponent e with its 95% interval, and the slope of the law that is named."""

    name: str  # logarithm, power 1, power -2, ...; "none" where e is close to no whole number
    exponent: float
    exponent_low: float
    exponent_high: float
    slope: float | None  # of T = a + b ln x, or a + b x^k; None for none of them
    slope_low: float | None
    slope_high: float | None


def law(x: ArrayLike, times: Sequence[np.ndarray]) -> Law | None:
    """From the times of the trials at each of at least four settings x > 0; None where there are fewer.

    The fit is to mean times, by least squares. Its interval is the percentile bootstrap over trials, within each
    setting; it has no width where all trials take the same time.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 4 or (at <= 0).any() or any(len(t) == 0 for t in times):
        return None
    mean = np.array([np.mean(t) for t in times])
    exponent = _exponent(at, mean)
    power = round(exponent)
    named = abs(exponent - power) <= NEAR
    draws = np.random.default_rng(0)
    again = [
        np.array([np.mean(draws.choice(t, len(t))) for t in times]) if max(map(len, times)) > 1 else mean
        for _ in range(RESAMPLES)
    ]
    exponents = np.percentile([_exponent(at, means) for means in again], [2.5, 97.5])
    slopes = [_line(at, means, float(power))[1] for means in again]
    low, high = np.percentile(slopes, [2.5, 97.5])
    name = "none" if not named else "logarithm" if power == 0 else f"power {power}"
    return Law(
        name,
        exponent,
        float(exponents[0]),
        float(exponents[1]),
        _line(at, mean, float(power))[1] if named else None,
        float(low) if named else None,
        float(high) if named else None,
    )


def limit(x: ArrayLike, values: Sequence[np.ndarray], exponent: float) -> tuple[float, float, float] | None:
    """The value a that a + b x^exponent goes to for a negative exponent, and its 95% interval.

    From the values of runs at each of at least three settings x > 0; None where there are fewer. The fit is to means,
    by least squares; its interval the percentile bootstrap over runs, within each setting.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 3 or any(len(v) == 0 for v in values):
        return None
    draws = np.random.default_rng(0)
    again = [[np.mean(draws.choice(v, len(v))) for v in values] for _ in range(RESAMPLES)]
    low, high = np.percentile([_line(at, np.array(means), exponent)[0] for means in again], [2.5, 97.5])
    return _line(at, np.array([np.mean(v) for v in values]), exponent)[0], float(low), float(high)


def _exponent(x: np.ndarray, times: np.ndarray) -> float:
    found = minimize_scalar(
        lambda e: _line(x, times, e)[2], bounds=(-LARGEST, LARGEST), method="bounded", options={"xatol": 1e-6}
    )
    return float(found.x)


def _line(x: np.ndarray, times: np.ndarray, e: float) -> tuple[float, float, float]:
    """a, b and the sum of squares of T = a + b x^e, or a + b ln x for e = 0."""
    shape = np.log(x) if abs(e) < 1e-9 else x**e
    away = shape - shape.mean()
    b = float(away @ times / (away @ away))
    a = float(times.mean() - b * shape.mean())
    return a, b, float(((times - a - b * shape) ** 2).sum())
