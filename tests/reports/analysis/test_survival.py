"""Censored times: medians and their coverage, and the laws that times follow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lossgeo.reports.analysis.intervals import Estimate
from lossgeo.reports.analysis.power_laws import law
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


def test_equal_times_are_certain() -> None:
    found = survival([7] * 4, [False] * 4)
    assert found.median == Estimate(7, 7, 7)


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
    assert found.exponent.low == found.exponent.value == found.exponent.high
    assert found.slope.value == pytest.approx(slope, rel=1e-9)


def test_the_interval_of_a_law_holds_the_exponent_in_most_cases() -> None:
    """Times 10 - 4 ln x with normal errors of 1, 50 trials a setting: 95% are promised, 60 samples, 4 sigma."""
    x, draws, held = np.geomspace(0.001, 1, 6), np.random.default_rng(2), 0
    for _ in range(60):
        found = law(x, [10 - 4 * np.log(v) + draws.normal(size=50) for v in x])
        assert found is not None
        held += found.exponent.low <= 0 <= found.exponent.high
    assert held / 60 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)


def test_too_few_settings_are_no_law() -> None:
    assert law([0.1, 0.2, 0.3], [np.array([1.0])] * 3) is None
    assert law([0.0, 0.1, 0.2, 0.3], [np.array([1.0])] * 4) is None
