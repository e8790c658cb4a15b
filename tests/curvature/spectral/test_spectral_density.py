"""What is said of a spectrum from quadrature nodes: bounds against the measure itself, intervals against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lossgeo.curvature.spectral.spectral_density import Rule, SpectralDensity, mass, outliers, wilson
from tests.support.synthetic import density, gauss, network

RNG = np.random.default_rng(0)
SPECTRA = {
    "semicircle": np.sort(RNG.beta(1.5, 1.5, 400) * 2 - 1),
    "network": network(),
    "half zero": np.concatenate([np.zeros(200), RNG.exponential(size=200)]),
    "crowded at zero": np.sort(np.sign(RNG.standard_normal(400)) * 10 ** RNG.uniform(-6, 0, 400)),
}


def read(spectrum: np.ndarray, **settings: int) -> SpectralDensity:
    return SpectralDensity.read(density(0, spectrum, **settings))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 60])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_mass_of_a_vector_lies_within_the_bounds(name: str, steps: int) -> None:
    spectrum = SPECTRA[name]
    for seed in range(5):
        start = np.random.default_rng(seed).standard_normal(len(spectrum))
        rule = Rule(*gauss(spectrum, start, steps))
        mass = start**2 / (start @ start)
        # none of them at an eigenvalue, where rounding decides
        cuts = [*np.linspace(-1.21, 1.19, 13) * np.abs(spectrum).max(), 1e-3, *(rule.nodes + 1e-9)]
        for cut in cuts:
            low, high = rule.below(cut)
            assert low - 1e-9 <= mass[spectrum < cut].sum() <= high + 1e-9
            assert 0 <= low <= high <= 1


def test_bounds_are_sharp_where_a_gap_is_resolved_and_wide_where_nothing_is() -> None:
    spectrum = np.concatenate([np.linspace(-1, -0.5, 100), np.linspace(0.5, 1, 300)])
    start = RNG.standard_normal(400)
    narrow = Rule(*gauss(spectrum, start, 40)).below(0.0)
    assert narrow[1] - narrow[0] < 1e-6
    assert Rule(*gauss(spectrum, start, 1)).below(0.0) == (0.0, 1.0)


def test_a_rule_gives_back_its_tridiagonal_matrix() -> None:
    rng = np.random.default_rng(1)
    alpha, beta = 0.1 * rng.standard_normal(50), rng.uniform(0.9, 1, 49)  # stronger disorder would localize it
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    found = Rule(nodes, vectors[0] ** 2).jacobi
    np.testing.assert_allclose(found[0], alpha, atol=1e-9)
    np.testing.assert_allclose(found[1], beta, atol=1e-9)


def weighed(spectrum: np.ndarray, known: int, vectors: int, seed: int) -> SpectralDensity:
    """A measurement without any quadrature error: what random directions make of the eigenvectors themselves."""
    free = len(spectrum) - known
    drawn = np.random.default_rng(seed).standard_normal((vectors, free)) ** 2
    rules = tuple(Rule(spectrum[:free], row / row.sum(), exact=True) for row in drawn)
    return SpectralDensity(len(spectrum), spectrum[free:], rules)


@pytest.mark.parametrize("vectors", [1, 4, 10])
@pytest.mark.parametrize(("low", "high"), [(-math.inf, -0.05), (-math.inf, -1e-3), (-1e-3, 1e-3), (0.15, math.inf)])
def test_intervals_over_random_vectors_hold_the_truth(low: float, high: float, vectors: int) -> None:
    """200 seeds; from 1 to 60% of 600 eigenvalues, ten of which are known."""
    spectrum = network()
    truth = np.mean((spectrum >= low) & (spectrum <= high))
    held = 0
    for seed in range(200):
        share = weighed(spectrum, 10, vectors, seed).mass(low, high)
        held += share.low <= truth <= share.high
    assert 0.90 * 200 <= held <= 0.99 * 200, held / 200


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_with_few_steps_hold_the_truth_too(name: str) -> None:
    spectrum = SPECTRA[name]
    scale = np.abs(spectrum).max()
    held = total = 0
    for seed in range(40):
        found = read(spectrum, seed=seed, steps=20, deflate=5)
        for cut in (0.01, 0.1):
            truth = np.mean(np.abs(spectrum) <= cut * scale)
            share = found.mass(-cut * scale, cut * scale)
            held += share.low <= truth <= share.high
            total += 1
    assert held >= 0.9 * total


def test_rows_may_be_a_table_or_a_list() -> None:
    rows = density(0, network())
    assert mass(rows, 0.1) == mass(pd.DataFrame(rows), 0.1) == SpectralDensity.read(rows).mass(0.1)


def test_more_steps_narrow_what_more_vectors_do_not() -> None:
    spectrum = SPECTRA["semicircle"]
    few, more_vectors, more_steps = (
        read(spectrum, vectors=v, steps=m).mass(high=0.2) for v, m in ((4, 8), (400, 8), (4, 80))
    )
    widths = [share.high - share.low for share in (few, more_vectors, more_steps)]
    assert widths[1] > 0.1
    assert widths[2] < 0.6 * widths[0]


def test_known_eigenvalues_count_exactly() -> None:
    spectrum = network()
    share = read(spectrum).mass(0.95, math.inf)
    assert share.value == pytest.approx(10 / 600, abs=1e-6)
    assert share.low == pytest.approx(10 / 600, abs=1e-9)
    assert share.high < 12 / 600  # 1.96^2 / (V / 2), where nothing was seen


def test_as_many_steps_as_dimensions_leave_nothing_open() -> None:
    spectrum = np.array([-2.0, -1.0, 0.5, 1.0, 3.0])
    for settings in ({"deflate": 0}, {"deflate": 2}, {"deflate": 5}):
        found = read(spectrum, **settings)
        assert found.mass(high=0.0) == pytest.approx((0.4, 0.4, 0.4))
        assert found.moment(1) == pytest.approx((0.3, 0.0))
        assert found.moment(2) == pytest.approx((np.mean(spectrum**2), 0.0))
    assert read(np.array([2.0])).mass(low=1.0) == (1.0, 1.0, 1.0)


def test_an_eigenvalue_of_many_dimensions_is_no_question_of_resolution() -> None:
    spectrum = np.concatenate([np.full(70, -1.0), np.full(30, 1.0)])
    share = read(spectrum, deflate=0, vectors=4).mass(high=0.0)
    assert share.low < 0.7 < share.high
    assert share.high - share.low < 0.2
    assert read(spectrum, deflate=0, vectors=1).mass(high=0.0).high > 0.9, "from one vector nobody can tell"


@pytest.mark.parametrize("vectors", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_all_of_a_zero_spectrum_is_zero(size: int, vectors: int) -> None:
    """No share of it is negative, though -0 is not above 0; with a cut, and without."""
    for deflate in (0, 1):
        for cut in (0.0, 1e-12):
            negative, zero, positive = read(np.zeros(size), vectors=vectors, deflate=deflate).signs(cut)
            assert (negative.value, zero.value, positive.value) == (0.0, 1.0, 0.0)
            assert (negative.low, positive.low, zero.high) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("cut", [0.0, 1e-3, 0.3])
def test_the_three_signs_add_up_to_one(name: str, cut: float) -> None:
    spectrum, held = SPECTRA[name], 0
    truth = [float(np.mean(one)) for one in (spectrum < -cut, np.abs(spectrum) <= cut, spectrum > cut)]
    for seed in range(10):
        shares = read(spectrum, seed=seed, steps=20, deflate=3).signs(cut)
        assert sum(share.value for share in shares) == pytest.approx(1.0, abs=1e-15)
        assert all(share.low <= share.value <= share.high for share in shares)
        held += sum(share.low - 1e-12 <= true <= share.high + 1e-12 for share, true in zip(shares, truth, strict=True))
    assert held >= 27


def test_an_eigenvalue_at_the_cut_is_zero() -> None:
    found = read(np.array([-1.0, -0.5, 0.5, 0.5, 2.0]), deflate=5)
    assert [share.value for share in found.signs(0.5)] == pytest.approx([0.2, 0.6, 0.2])


@pytest.mark.parametrize("order", [1, 2])
def test_moments_lie_within_their_standard_errors(order: int) -> None:
    spectrum = network()
    truth = np.mean(spectrum**order)
    scores = []
    for seed in range(100):
        value, stderr = read(spectrum, seed=seed, steps=10).moment(order)
        scores.append((value - truth) / stderr)
    assert abs(np.mean(scores)) < 4 / 10
    assert 0.75 < np.std(scores) < 1.3  # four standard errors of a standard deviation over 100


def parts(samples: int, of: int, law: Callable[[int], float], seed: int) -> list[dict[str, object]]:
    """A two-valued spectrum whose upper share depends on the number of examples, over a sample and its parts."""
    rng = np.random.default_rng(seed)
    rows = []
    for part in range(of + 1):
        n = samples if part == 0 else samples // of
        upper = round(400 * (law(n) + rng.standard_normal() * 0.5 / n**0.5))
        spectrum = np.concatenate([np.linspace(0, 0.1, 400 - upper), np.linspace(1, 1.1, upper)])
        rows += density(0, spectrum, vectors=10 if part == 0 else 1, steps=12, deflate=0, part=part, seed=seed)
    return rows


def test_the_spread_over_parts_becomes_the_error_over_examples() -> None:
    held = wider = 0
    for seed in range(60):
        found = SpectralDensity.read(parts(800, 8, lambda n: 0.4, seed))
        share, alone = found.mass(low=0.5), SpectralDensity(400, found.known, found.rules).mass(low=0.5)
        held += share.low <= 0.4 <= share.high
        wider += share.high - share.low > alone.high - alone.low
    assert held >= 54
    assert wider == 60


def test_a_bias_that_falls_with_the_number_of_examples_is_within_the_interval() -> None:
    held = 0
    for seed in range(60):
        found = SpectralDensity.read(parts(800, 8, lambda n: 0.4 + 3 / n**0.5, seed))
        share = found.mass(low=0.5)
        held += share.low <= 0.4 <= share.high
    assert held >= 54


def test_the_cumulative_share_follows_the_spectrum() -> None:
    spectrum = SPECTRA["semicircle"]
    found = read(spectrum, vectors=10, steps=80)
    at = np.linspace(-1.1, 1.1, 300)
    exact = np.array([np.mean(spectrum < x) for x in at])
    assert np.abs(found.cumulative(at) - exact).max() < 0.03
    assert found.cumulative([-9.0, 9.0]) == pytest.approx([0.0, 1.0])


def test_smoothed_densities_hold_the_whole_mass() -> None:
    found = read(network())
    at = np.linspace(-1, 5, 4001)
    assert np.trapezoid(found.smooth(at, 0.02), at) == pytest.approx(1.0, abs=1e-6)
    assert found.smooth([4.0], 0.01)[0] == pytest.approx(1 / 600 / (0.01 * math.sqrt(2 * math.pi)), rel=1e-6)
    decades = np.linspace(-12, 3, 4001)
    signed = [np.trapezoid(found.smooth_log(decades, 0.1, sign), decades) for sign in (-1, 1)]
    tiny = found.mass(-1e-11, 1e-11).value
    assert sum(signed) == pytest.approx(1.0, abs=0.02 + tiny)
    large = np.trapezoid(found.smooth_log(decades, 0.1, 1, beyond=0.9), decades)
    assert large == pytest.approx(10 / 600, abs=1e-6)


def test_what_is_open_is_how_far_the_bounds_are_apart() -> None:
    spectrum = SPECTRA["semicircle"]
    few, many = (read(spectrum, steps=steps).open(0.3) for steps in (5, 80))
    assert 0 < many < 0.2 * few < 0.2
    assert read(np.array([-1.0, 0.1, 2.0]), deflate=0).open(0.5) == 0.0


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ([9, 8, 7, 1, 0.9, 0.8], None, (3, math.sqrt(7), 7.0)),
        ([9, 8, 7, 1, 0.9, 0.8], 2, (2, math.sqrt(56), 8 / 7)),
        ([3, 2, 0, -1], None, (2, math.sqrt(2 * 3e-6), 2 / 3e-6)),
        ([5.0, 4.0, 1e-12], None, (2, math.sqrt(4 * 5e-6), 4 / 5e-6)),
    ],
)
def test_outliers_stand_above_the_widest_gap(
    values: list[float], limit: int | None, expected: tuple[float, ...]
) -> None:
    assert outliers(values, limit) == pytest.approx(expected)


def test_outliers_need_two_eigenvalues_and_a_positive_one() -> None:
    assert outliers([1.0]) is outliers([]) is outliers([-1.0, -2.0]) is None


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # 10 of 100: 0.0552 to 0.1744
    assert wilson(0.1, 100) == pytest.approx((0.05523, 0.17437), abs=1e-5)
    assert wilson(0.0, 100)[0] == 0.0
    assert wilson(1.0, 50)[1] == pytest.approx(1.0)
