"""The interval's coverage, and the exponent of known power laws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lossgeo.reports.analysis.intervals import (
    FEWEST,
    Estimate,
    Means,
    correlation,
    in_words,
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


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("mean", mean),
        ("share", lambda x: share(int((x > 0).sum()), len(x))),
        ("root mean square", root_mean_square),
        ("spread ratio", lambda x: spread_ratio(x, x[::-1] ** 3)),
        ("correlation", lambda x: correlation(x, np.sin(x))),
        ("rank correlation", lambda x: spearman(x, np.sin(x))),
    ],
)
def test_an_interval_begins_at_the_fewest_samples_that_have_one(
    name: str, of: Callable[[np.ndarray], Estimate]
) -> None:
    draws = np.random.default_rng(8)
    found = {n: of(draws.normal(size=n)) for n in range(1, 12)}
    assert {n: (one.low is not None, one.high is not None) for n, one in found.items()} == {
        n: (n >= FEWEST[name],) * 2 for n in found
    }
    assert all(one.low < one.high for n, one in found.items() if n >= FEWEST[name])


def test_every_interval_is_put_into_words_with_its_samples() -> None:
    assert in_words("t", "mean", [5, 5]) == "95% t intervals, n = 5"
    assert in_words("t", "mean", [3, 12_000]) == "95% t intervals, n = 3 to 12,000"
    assert in_words("t", "mean", [5, 2]) == "95% t intervals, n = 2 to 5, none below 3"
    assert in_words("Kaplan-Meier", "median", [5]) == "no intervals, n = 5: below 6 there are none"
    assert in_words("t", "mean", []) == "no intervals, n = 0: below 3 there are none"


# --- means -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("law", LAWS)
def test_the_interval_holds_the_mean(law: str, n: int) -> None:
    """In 95% of 2,000 samples, give or take four standard errors and a percent for the skew of the lognormal law."""
    draw, truth = LAWS[law]
    samples = draw(np.random.default_rng(100), (2000, n))
    held = [found.low <= truth <= found.high for found in map(mean, samples)]
    assert 0.92 <= np.mean(held) <= 0.97


def test_the_interval_of_a_mean_is_students() -> None:
    sample = np.random.default_rng(3).normal(size=7)
    expected = stats.ttest_1samp(sample, 0.0).confidence_interval(0.95)
    assert ends(mean(sample)) == pytest.approx((sample.mean(), expected.low, expected.high), rel=1e-12)


def test_a_difference_of_means_has_welchs_interval() -> None:
    draws = np.random.default_rng(6)
    x, y = draws.normal(0, 1, 4), draws.normal(0, 5, 9)
    known = Means.of([x, y])
    assert known is not None
    expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    found = known.estimate(np.array([1.0, -1.0]))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_rounding_of_counts_is_part_of_the_error_where_nothing_else_is() -> None:
    """Equal counts are known to half a step; a spread of a step averages that out."""
    alike, spread = [np.full(50, 7.0)] * 2, [np.array([6.0, 7.0, 8.0] * 20)] * 2
    weights = np.array([1.0, -1.0])
    found = Means.of(alike, grain=1.0)
    assert found is not None
    _, aside = found.away(weights)
    assert aside == pytest.approx(1.96 * (2 / 12) ** 0.5, rel=1e-3)
    counted, real = Means.of(spread, grain=1.0), Means.of(spread)
    assert counted is not None
    assert real is not None
    assert counted.away(weights) == pytest.approx(real.away(weights), rel=1e-6)


def test_the_interval_ignores_the_order_of_the_values() -> None:
    values = np.random.default_rng(1).normal(size=7)
    found, turned = mean(values), mean(values[::-1])
    assert found == mean(list(values))
    assert (found.low, found.high) == (turned.low, turned.high)


def test_one_value_has_no_interval_and_equal_values_have_none_of_width() -> None:
    assert mean([]) == Estimate()
    assert mean([1.0, float("nan")]) == Estimate(1.0)
    assert mean([1.0, 2.0]) == Estimate(1.5)
    assert mean([2.5] * 5) == Estimate(2.5, 2.5, 2.5)


# --- spreads and correlations ----------------------------------------------------------------------------------------


def test_a_normal_sample_has_the_chi_square_interval_and_a_long_tail_a_longer_one() -> None:
    flat = np.array([-1.0, 1.0, -2.0, 2.0, -1.5, 1.5])
    square = float((flat**2).mean())
    low, high = (np.sqrt(6 * square / stats.chi2.isf(tail, 6)) for tail in (0.025, 0.975))
    assert ends(root_mean_square(flat)) == pytest.approx((np.sqrt(square), low, high), rel=1e-12)
    wild = np.array([*flat[:5], 15.0])
    found = root_mean_square(wild)
    assert found.high / found.low > high / low


def test_a_sample_over_itself_is_one_without_an_interval() -> None:
    sample = np.arange(8.0)
    assert spread_ratio(sample, sample.copy()) == Estimate(1.0)
    found = spread_ratio(sample, sample**2)
    assert found.low < found.value < found.high
    assert spread_ratio(np.ones(8), sample) == Estimate(0.0)


def test_an_order_without_exception_is_no_certainty() -> None:
    found = spearman(np.arange(6.0), np.arange(6.0) ** 3)
    assert found.value == found.high == pytest.approx(1.0)
    assert 0.3 < found.low < 0.9


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
