"""The interval's coverage, and the exponent of known power laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lossgeo.reports.analysis.intervals import bootstrap_interval, loglog_slope

LAWS = {
    "normal": (lambda rng, shape: rng.normal(3.0, 1.0, shape), 3.0),
    # a scatter of 25% is twice that of lambda_max over seeds on digits
    "lognormal": (lambda rng, shape: rng.lognormal(0.0, 0.25, shape), float(np.exp(0.25**2 / 2))),
}


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("law", LAWS)
def test_the_interval_holds_the_mean(law: str, n: int) -> None:
    """In at least 90% of 2,000 samples. The plain percentile interval: 85 and 83% at n = 5, 90 and 89% at n = 10."""
    draw, mean = LAWS[law]
    samples = draw(np.random.default_rng(100), (2000, n))
    held = [low <= mean <= high for low, high in map(bootstrap_interval, samples)]
    assert np.mean(held) >= 0.90


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_values_give_at_most_their_range(n: int) -> None:
    """1 - 2^(1 - n) is what the range of a symmetric law's sample holds; 4 standard errors of 1,000 samples."""
    samples = np.random.default_rng(7).normal(size=(1000, n))
    intervals = [bootstrap_interval(sample) for sample in samples]
    assert all(
        sample.min() - 1e-12 <= low <= high <= sample.max() + 1e-12
        for sample, (low, high) in zip(samples, intervals, strict=True)
    )
    expected = 1 - 2.0 ** (1 - n)
    held = np.mean([low <= 0 <= high for low, high in intervals])
    assert held <= expected + 4 * np.sqrt(expected * (1 - expected) / 1000)


def test_the_interval_is_as_wide_as_students_for_a_large_normal_sample() -> None:
    sample = np.random.default_rng(3).normal(size=40)
    low, high = bootstrap_interval(sample)
    student = 2 * stats.t.isf(0.025, 39) * sample.std(ddof=1) / np.sqrt(40)
    assert high - low == pytest.approx(student, rel=0.05)  # quantiles of 10,000 resamples move by about 2%


def test_the_interval_ignores_the_order_of_the_values() -> None:
    values = np.random.default_rng(1).normal(size=7)
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1]) == bootstrap_interval(list(values))


def test_one_value_has_no_interval_and_equal_values_have_none_of_width() -> None:
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([2.5] * 5) == pytest.approx((2.5, 2.5))


def test_an_exact_power_law_has_its_exponent_in_every_seed() -> None:
    x = np.tile([16, 64, 256, 1024], 5)
    seeds = np.repeat(range(5), 4)
    slope = loglog_slope(x, (1.0 + seeds) * x**0.5, list(seeds))
    assert (slope.mean, slope.low, slope.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)
    assert (slope.groups, slope.left_out) == (5, 0)


def test_slopes_equal_linregress_within_seeds() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([8, 16, 32, 64], 60)
    y, seeds = x**-0.3 * rng.lognormal(0, 0.2, 60), list(rng.integers(0, 6, 60))
    expected = [
        stats.linregress(np.log(x[np.array(seeds) == s]), np.log(y[np.array(seeds) == s])).slope for s in range(6)
    ]
    slope = loglog_slope(x, y, seeds)
    assert slope.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert (slope.low, slope.high) == pytest.approx(bootstrap_interval(expected))


def test_seeds_without_two_sizes_are_left_out_and_counted() -> None:
    slope = loglog_slope([1, 2, 4, 4, 4, 8], [1, 2, 4, 5, -1.0, float("nan")], ["a", "a", "b", "b", "c", "d"])
    assert slope.mean == pytest.approx(1.0)
    assert (slope.low, slope.high, slope.groups, slope.left_out) == (None, None, 1, 3)
    assert loglog_slope([4, 4], [1, 2], [0, 0]) is None
    assert loglog_slope([], [], []) is None


def test_the_slope_interval_holds_the_exponent() -> None:
    """5 seeds, 4 sizes, 12% scatter as on digits: truth inside in at least 90% of 2,000 sweeps."""
    rng = np.random.default_rng(11)
    x, seeds = np.tile([16, 64, 256, 1024], 5), list(np.repeat(range(5), 4))
    held = []
    for _ in range(2000):
        slope = loglog_slope(x, x**0.2 * rng.lognormal(0, 0.12, 20), seeds)
        held.append(slope.low <= 0.2 <= slope.high)
    assert np.mean(held) >= 0.90
