"""Censored times: medians and their coverage, and the laws that times follow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lossgeo.reports.analysis.intervals import Estimate
from lossgeo.reports.analysis.power_laws import law, limit
from lossgeo.reports.analysis.survival import logrank, survival


def test_without_censoring_the_curve_is_the_share_that_is_left_and_the_median_the_usual_one() -> None:
    found = survival([5.0, 1.0, 3.0, 3.0, 9.0], [False] * 5)
    assert found.times.tolist() == [1, 3, 5, 9]
    np.testing.assert_allclose(found.alive, [0.8, 0.4, 0.2, 0.0], atol=1e-15)
    assert found.median.value == 3


def test_kaplan_meier_by_hand_with_censored_times() -> None:
    """S after 2: 5/6; after 4 (one left at 3): 5/6 x 3/4; after 6: x 1/2 (one left at 5)."""
    found = survival([2, 3, 4, 5, 6, 7], [False, True, False, True, False, True])
    at = dict(zip(found.times, found.alive, strict=True))
    assert at[2] == pytest.approx(5 / 6)
    assert at[4] == pytest.approx(5 / 6 * 3 / 4)
    assert at[6] == pytest.approx(5 / 6 * 3 / 4 / 2)
    assert found.median.value == 6


def test_fewer_than_half_over_is_no_median() -> None:
    assert survival([1, 9, 9, 9], [False, True, True, True]).median.value is None
    every = survival([9, 9], [True, True])
    assert every.median == Estimate()
    assert every.alive.tolist() == [1.0]


def test_equal_times_are_known_to_the_step_in_which_it_happened() -> None:
    assert survival([7] * 6, [False] * 6).median == Estimate(7, 6, 7)


def test_five_trials_have_a_median_without_an_interval() -> None:
    """1 - 2 / 2^n, the most that order statistics can promise, is 93.75% at n = 5."""
    found = survival([1, 2, 3, 4, 5], [False] * 5)
    assert found.median == Estimate(3)
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert survival([1, 2, 3, 4, 5, 6], [False] * 6).median == Estimate(3, 0, 6)


def test_trials_that_were_lost_early_do_not_count_for_the_median() -> None:
    """Six trials, of which one was lost before the median; ten that were lost at the end are as good as seen."""
    assert survival([1, 2, 3, 4, 5, 6], [True, *[False] * 5]).median == Estimate(4)
    late = survival([*range(1, 11), *[20] * 9], [*[False] * 10, *[True] * 9])
    assert late.median == Estimate(10, 5, None)


def test_without_censoring_the_curves_interval_is_wilsons() -> None:
    found = survival(range(1, 11), [False] * 10)
    expected = [stats.binomtest(10 - k, 10).proportion_ci(0.95, method="wilson") for k in range(1, 11)]
    np.testing.assert_allclose(found.low, [interval.low for interval in expected], atol=1e-12)
    np.testing.assert_allclose(found.high, [interval.high for interval in expected], atol=1e-12)


def test_the_medians_interval_holds_the_truth_in_at_least_ninety_percent_of_cases() -> None:
    """Exponential times of median ln 2, cut off at random; 400 samples of 40, where 4 sigma of 95% is 4.4%."""
    draws, held = np.random.default_rng(0), 0
    for _ in range(400):
        times, cuts = draws.exponential(size=40), draws.exponential(3.0, size=40)
        found = survival(np.minimum(times, cuts), times > cuts)
        low = -math.inf if found.median.low is None else found.median.low
        high = math.inf if found.median.high is None else found.median.high
        held += low <= math.log(2) <= high
    assert 0.90 <= held / 400 <= 0.994


def test_the_log_rank_test_tells_laws_apart_and_keeps_its_level() -> None:
    draws = np.random.default_rng(1)
    level = []
    for _ in range(200):
        first, second = draws.exponential(size=30), draws.exponential(size=30)
        p = logrank((first, first > 2), (second, second > 2))
        assert p is not None
        level.append(p < 0.05)
    assert np.mean(level) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    slow = draws.exponential(5.0, size=30)
    p = logrank((first, first > 2), (slow, slow > 2))
    assert p is not None
    assert p < 1e-3
    assert logrank(([1.0], [True]), ([2.0], [True])) is None


@pytest.mark.parametrize(
    ("times", "name", "exponent", "slope"),
    [
        (lambda x: 7 - 3 * np.log(x), "logarithm", 0, -3),
        (lambda x: 2 / x - 5, "power -1", -1, 2),
        (lambda x: 0.5 / x**2 + 40, "power -2", -2, 0.5),
        (lambda x: 3 * x + 1, "power 1", 1, 3),
        (lambda x: 4 * np.log(x) + 9, "logarithm", 0, 4),
    ],
)
def test_a_law_is_found_with_its_exponent_and_slope(
    times: Callable[[np.ndarray], np.ndarray], name: str, exponent: float, slope: float
) -> None:
    x = np.geomspace(0.01, 0.5, 6)
    found = law(x, [np.array([t]) for t in times(x)])
    assert found is not None
    assert found.name == name
    assert found.exponent.value == pytest.approx(exponent, abs=1e-4)
    assert found.slope.value == pytest.approx(slope, rel=1e-9)
    assert (found.exponent.low, found.exponent.high, found.slope.low, found.slope.high) == (None,) * 4, "of one trial"


@pytest.mark.parametrize("trials", [3, 5, 50])
def test_the_interval_of_a_law_holds_the_exponent(trials: int) -> None:
    """Times 10 - 4 ln x with normal errors of 1: 95% of 100 samples, 4 sigma; its ends are two-sided and different."""
    x, draws, held = np.geomspace(0.001, 1, 6), np.random.default_rng(2), 0
    for _ in range(100):
        found = law(x, [10 - 4 * np.log(v) + draws.normal(size=trials) for v in x])
        assert found is not None
        assert found.exponent.low < found.exponent.value < found.exponent.high
        held += found.exponent.low <= 0 <= found.exponent.high
    assert held >= 95 - 4 * math.sqrt(100 * 0.95 * 0.05)


def test_trials_that_all_take_the_same_time_leave_its_rounding() -> None:
    """Whole steps of 100 - 40 ln x, twenty trials of no spread: what a step leaves open, at the end as in between."""
    x = np.geomspace(0.01, 0.5, 6)
    found = law(x, [np.full(20, np.ceil(100 - 40 * np.log(v))) for v in x])
    assert found is not None
    assert -0.05 < found.exponent.low < 0 < found.exponent.high < 0.05
    assert found.slope.low < -40 < found.slope.high
    finer = law(x, [np.full(20, np.ceil(1000 - 400 * np.log(v))) for v in x])
    assert finer.exponent.high - finer.exponent.low < 0.2 * (found.exponent.high - found.exponent.low)


def test_an_exponent_that_the_times_do_not_tell_has_no_end() -> None:
    draws = np.random.default_rng(3)
    found = law([1.0, 2.0, 4.0, 8.0], [draws.normal(100, 30, 4) for _ in range(4)])
    assert found is not None
    assert None in (found.exponent.low, found.exponent.high)


@pytest.mark.parametrize(("runs", "fewest"), [(2, False), (3, True), (6, True)])
def test_the_interval_of_a_limit_is_students(runs: int, fewest: bool) -> None:
    """a + 2 N^(-2/3) over four sizes: 95% of 400 samples hold a = -1.6, 4 sigma; the bootstrap held 88% at six runs."""
    sizes, draws, held = [10.0, 20.0, 40.0, 80.0], np.random.default_rng(4), 0
    for _ in range(400):
        found = limit(sizes, [-1.6 + 2 * n ** (-2 / 3) + draws.normal(0, 0.02, runs) for n in sizes], -2 / 3)
        assert found.value is not None
        assert (found.low is not None) == (found.high is not None) == fewest
        held += fewest and found.low <= -1.6 <= found.high
    assert not fewest or 0.95 - 0.044 <= held / 400 <= 0.99


def test_too_few_settings_are_no_law() -> None:
    assert law([0.1, 0.2, 0.3], [np.array([1.0])] * 3) is None
    assert law([0.0, 0.1, 0.2, 0.3], [np.array([1.0])] * 4) is None
