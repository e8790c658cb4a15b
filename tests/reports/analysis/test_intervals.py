"""The interval's coverage, and the exponent of known power laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lossgeo.reports.analysis.intervals import (
    Estimate,
    bootstrap,
    correlation,
    loglog_slope,
    mean,
    root_mean_square,
    share,
    spearman,
    spread_ratio,
)

LAWS = {
    "normal": (lambda rng, shape: rng.normal(3.0, 1.0, shape), 3.0),
    # a scatter of 25% is twice that of lambda_max over seeds on digits
    "lognormal": (lambda rng, shape: rng.lognormal(0.0, 0.25, shape), float(np.exp(0.25**2 / 2))),
}


def ends(found: Estimate) -> tuple[float | None, float | None, float | None]:
    return found.value, found.low, found.high


def test_an_estimate_is_three_columns_of_plain_values() -> None:
    found = Estimate(np.float64(2.0), float("nan"), np.float64(3.0)).columns("x")
    assert found == {"x": 2.0, "x_low": None, "x_high": 3.0}
    assert type(found["x"]) is float
    assert Estimate().columns("x") == {"x": None, "x_low": None, "x_high": None}


def test_an_estimate_moves_to_another_scale_whole() -> None:
    assert Estimate(1.0, None, 4.0).map(lambda x: 2 * x) == Estimate(2.0, None, 8.0)


def test_what_too_few_or_constant_values_cannot_say_is_unknown() -> None:
    few, flat, many = np.arange(4.0), np.ones(6), np.arange(6.0)
    assert root_mean_square(few) == spread_ratio(few, many) == spread_ratio(many, flat) == Estimate()
    assert correlation(few, few) == correlation(many, flat) == spearman(few, few) == spearman(flat, many) == Estimate()
    assert share(0, 0) == Estimate()


# --- the bootstrap ---------------------------------------------------------------------------------------------------


def test_an_interval_does_not_depend_on_the_order_of_its_sample() -> None:
    """Runs come in the order of their ids, which a new key of a component changes."""
    draws = np.random.default_rng(5)
    x, pairs = draws.normal(2, 1, 12), draws.normal(0, 1, (9, 2))
    turned = draws.permutation(9)
    assert bootstrap(lambda a: a.std(axis=1), x) == bootstrap(lambda a: a.std(axis=1), x[::-1])
    slope = lambda a: (a[..., 0] * a[..., 1]).mean(axis=1)  # noqa: E731
    assert bootstrap(slope, pairs) == bootstrap(slope, pairs[turned])


def test_the_bootstrap_is_scipys_percentile_bootstrap() -> None:
    """Two independent samples, and pairs; the same stream, so the same numbers."""
    draws = np.random.default_rng(4)
    x, y = np.sort(draws.normal(2, 1, 12)), np.sort(draws.normal(5, 1, 9))  # ours takes them in this order
    shared = {"n_resamples": 2000, "method": "percentile", "rng": 0}

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return x.mean(axis=axis) / y.mean(axis=axis)

    expected = stats.bootstrap((x, y), ratio, **shared).confidence_interval
    assert bootstrap(ratio, x, y) == pytest.approx((expected.low, expected.high), rel=1e-12)
    pairs = np.stack([x[:9], y], axis=1)
    expected = stats.bootstrap((x[:9], y), ratio, paired=True, **shared).confidence_interval
    found = bootstrap(lambda drawn: ratio(drawn[..., 0], drawn[..., 1]), pairs)
    assert found == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_a_statistic_of_one_resample_at_a_time_has_the_interval_of_one_of_all() -> None:
    sample = np.random.default_rng(2).normal(size=8)
    assert bootstrap(np.mean, sample, batch=1) == pytest.approx(bootstrap(lambda x: x.mean(axis=1), sample), rel=1e-12)


def test_resamples_without_a_statistic_do_not_count() -> None:
    sample = np.array([0.0, 1.0, 1.0, 1.0])
    low, high = bootstrap(lambda x: np.where(x.min(axis=1) > 0, 7.0, np.nan), sample)
    assert (low, high) == (7.0, 7.0)


# --- means -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("law", LAWS)
def test_the_interval_holds_the_mean(law: str, n: int) -> None:
    """In at least 90% of 2,000 samples. The plain percentile interval: 85 and 83% at n = 5, 90 and 89% at n = 10."""
    draw, truth = LAWS[law]
    samples = draw(np.random.default_rng(100), (2000, n))
    held = [found.low <= truth <= found.high for found in map(mean, samples)]
    assert np.mean(held) >= 0.90


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_values_give_at_most_their_range(n: int) -> None:
    """1 - 2^(1 - n) is what the range of a symmetric law's sample holds; 4 standard errors of 1,000 samples."""
    samples = np.random.default_rng(7).normal(size=(1000, n))
    found = [mean(sample) for sample in samples]
    assert all(
        sample.min() - 1e-12 <= of_it.low <= of_it.high <= sample.max() + 1e-12
        for sample, of_it in zip(samples, found, strict=True)
    )
    expected = 1 - 2.0 ** (1 - n)
    held = np.mean([of_it.low <= 0 <= of_it.high for of_it in found])
    assert held <= expected + 4 * np.sqrt(expected * (1 - expected) / 1000)


def test_the_interval_is_as_wide_as_students_for_a_large_normal_sample() -> None:
    sample = np.random.default_rng(3).normal(size=40)
    found = mean(sample)
    student = 2 * stats.t.isf(0.025, 39) * sample.std(ddof=1) / np.sqrt(40)
    assert found.high - found.low == pytest.approx(student, rel=0.05)  # quantiles of 10,000 resamples move by about 2%


def test_the_interval_ignores_the_order_of_the_values() -> None:
    values = np.random.default_rng(1).normal(size=7)
    found, turned = mean(values), mean(values[::-1])
    assert found == mean(list(values))
    assert (found.low, found.high) == (turned.low, turned.high)


def test_one_value_has_no_interval_and_equal_values_have_none_of_width() -> None:
    assert mean([]) == Estimate()
    assert mean([1.0, float("nan")]) == Estimate(1.0)
    assert mean([2.5] * 5) == Estimate(2.5, 2.5, 2.5)


# --- exponents -------------------------------------------------------------------------------------------------------


def test_an_exact_power_law_has_its_exponent_in_every_seed() -> None:
    x = np.tile([16, 64, 256, 1024], 5)
    seeds = np.repeat(range(5), 4)
    slope = loglog_slope(x, (1.0 + seeds) * x**0.5, list(seeds))
    assert ends(slope.exponent) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)
    assert (slope.groups, slope.left_out) == (5, 0)


def test_slopes_equal_linregress_within_seeds() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([8, 16, 32, 64], 60)
    y, seeds = x**-0.3 * rng.lognormal(0, 0.2, 60), list(rng.integers(0, 6, 60))
    expected = [
        stats.linregress(np.log(x[np.array(seeds) == s]), np.log(y[np.array(seeds) == s])).slope for s in range(6)
    ]
    slope = loglog_slope(x, y, seeds)
    assert slope.exponent.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert ends(slope.exponent) == pytest.approx(ends(mean(expected)))


def test_seeds_without_two_sizes_are_left_out_and_counted() -> None:
    slope = loglog_slope([1, 2, 4, 4, 4, 8], [1, 2, 4, 5, -1.0, float("nan")], ["a", "a", "b", "b", "c", "d"])
    assert slope.exponent == Estimate(pytest.approx(1.0))
    assert (slope.groups, slope.left_out) == (1, 3)
    assert loglog_slope([4, 4], [1, 2], [0, 0]) is None
    assert loglog_slope([], [], []) is None


def test_the_slope_interval_holds_the_exponent() -> None:
    """5 seeds, 4 sizes, 12% scatter as on digits: truth inside in at least 90% of 2,000 sweeps."""
    rng = np.random.default_rng(11)
    x, seeds = np.tile([16, 64, 256, 1024], 5), list(np.repeat(range(5), 4))
    held = []
    for _ in range(2000):
        slope = loglog_slope(x, x**0.2 * rng.lognormal(0, 0.12, 20), seeds)
        held.append(slope.exponent.low <= 0.2 <= slope.exponent.high)
    assert np.mean(held) >= 0.90
