"""How a time depends on a setting: T = a + b (x^e - 1) / e, whose limit at e = 0 is a logarithm.

A slope in log-log axes would call every logarithm a small power, since ln(1/x) is one locally. With the constant a, the
three laws of escape (logarithm, first and second power of the distance) are three values of e, and a fit tells them
apart.

Source: Box & Cox 1964, for the family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from lossgeo.reports.analysis.intervals import Estimate, bootstrap

LARGEST = 5.0  # exponents are looked for between -5 and 5
NEAR = 0.25  # from a whole number, within which a law has its name
RESAMPLES = 200


@dataclass(frozen=True)
class Law:
    """The fitted exponent e, and the slope of the law that is named."""

    name: str  # logarithm, power 1, power -2, ...; "none" where e is close to no whole number
    exponent: Estimate
    slope: Estimate  # of T = a + b ln x, or a + b x^k; unknown for none of them


def law(x: ArrayLike, times: Sequence[np.ndarray]) -> Law | None:
    """The law of the times of trials at each of at least four settings x > 0; None where there are fewer.

    The fit is to mean times, by least squares. The intervals are of the percentile bootstrap over trials, within each
    setting, and have no width where all trials take the same time.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 4 or (at <= 0).any() or any(len(t) == 0 for t in times):
        return None
    mean = _means(times)
    exponent = _exponent(at, mean)
    with_ends = Estimate(exponent, *_ends(lambda means: _exponent(at, means), times))
    power = round(exponent)
    if abs(exponent - power) > NEAR:
        return Law("none", with_ends, Estimate())

    def slope(means: np.ndarray) -> float:
        return _line(at, means, float(power))[1]

    name = "logarithm" if power == 0 else f"power {power}"
    return Law(name, with_ends, Estimate(slope(mean), *_ends(slope, times)))


def limit(x: ArrayLike, values: Sequence[np.ndarray], exponent: float) -> Estimate:
    """The value a that a + b x^exponent goes to for a negative exponent.

    `values` are those of runs at each of at least three settings x > 0; with fewer the limit is unknown. The fit is to
    means, by least squares; the interval is of the percentile bootstrap over runs, within each setting.
    """
    at = np.asarray(x, dtype=float)
    if len(set(at.tolist())) < 3 or any(len(v) == 0 for v in values):
        return Estimate()

    def asymptote(means: np.ndarray) -> float:
        return _line(at, means, exponent)[0]

    return Estimate(asymptote(_means(values)), *_ends(asymptote, values))


def _means(samples: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([np.mean(sample) for sample in samples])


def _ends(fit: Callable[[np.ndarray], float], samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """The interval of what is fitted to the means of samples; a fit takes one resample of each at a time."""
    return bootstrap(lambda *drawn: fit(_means(drawn)), *samples, resamples=RESAMPLES, batch=1)


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
