"""Traces of matrices whose spectrum is set: unbiased, with intervals that hold the truth, at the cost that is said."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lossgeo.curvature.spectral.intervals import FEWEST
from lossgeo.curvature.spectral.trace import ENOUGH, STEPS, TraceEstimate, trace
from tests.support.spectra import largest, matrix, operator, stream

METHODS = ["hutchinson", "deflated", "hutch_plus_plus", "xtrace"]

SPECTRA = {
    "outliers": np.array([9.0, 6.0, 4.0, 2.0, *np.linspace(-0.5, 1, 60)]),
    "flat": np.linspace(1, 2, 60),
    "one": np.array([10.0, *np.zeros(59)]),
    "decaying": np.geomspace(1, 1e-6, 80),
    "signed": np.array([5.0, -4.5, *np.linspace(-0.2, 0.3, 60)]),
    "wider": np.array([9.0, 6.0, 4.0, 2.0, *np.linspace(-0.5, 1, 120)]),
}


def estimated(
    a: torch.Tensor,
    method: str,
    vectors: int,
    tolerance: float = 0.0,
    seed: int = 0,
    known: SimpleNamespace | None = None,
) -> TraceEstimate:
    of = operator(a)
    found = trace(of, method, vectors, tolerance, stream(seed), known)
    assert found.products == of.products <= vectors
    assert found.converged == (found.stderr <= tolerance * abs(found.value))
    return found


def wide(name: str) -> np.ndarray:
    """With zeros beside it, so that 400 vectors are fewer than its dimensions: else each of these has its own."""
    return np.concatenate([SPECTRA[name], np.zeros(440)])


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_signs_give_the_trace_of_a_diagonal_operator_exactly(dtype: torch.dtype) -> None:
    a = torch.diag(torch.tensor([3.0, -1.0, 0.5, 0.25] * 20, dtype=dtype))
    found = estimated(a, "hutchinson", 10, 0.01)
    assert (found.value, found.stderr) == (55.0, 0.0)
    assert found.high - found.low < 1e3 * torch.finfo(dtype).eps  # rounding
    assert (found.squares, found.squares_stderr) == (206.25, 0.0)
    assert found.products == FEWEST


@pytest.mark.parametrize("name", ["outliers", "flat"])
def test_the_standard_error_is_that_of_the_formula(name: str) -> None:
    a = matrix(wide(name))
    variance = 2 * float((a**2).sum() - (a.diagonal() ** 2).sum())
    found = estimated(a, "hutchinson", 400)
    # the spread of |Az|^2 over vectors, which is what the estimate rests on, is below 1.5 of its mean: 4 sigma
    assert found.stderr == pytest.approx((variance / 400) ** 0.5, rel=4 * 1.5 / 2 / 400**0.5)
    assert not found.converged


@pytest.mark.parametrize("inexact", [0.0, 0.3])
def test_the_standard_error_after_deflation_is_that_of_the_rest(inexact: float) -> None:
    a = matrix(wide("outliers"))
    known = largest(a, 3, inexact)
    outside = torch.eye(len(a), dtype=a.dtype) - known.vectors.T @ known.vectors
    b = outside @ a @ outside
    variance = 2 * float((b**2).sum() - (b.diagonal() ** 2).sum())
    found = estimated(a, "deflated", 400, known=known)
    assert found.stderr == pytest.approx((variance / 400) ** 0.5, rel=4 * 1.5 / 2 / 400**0.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPECTRA)
def test_trace_and_squares_are_unbiased(method: str, name: str) -> None:
    spectrum = SPECTRA[name]
    a = matrix(spectrum)
    found = [estimated(a, method, 12, seed=seed) for seed in range(150)]
    for label, truth in (("value", spectrum.sum()), ("squares", (spectrum**2).sum())):
        values = np.array([getattr(f, label) for f in found])
        assert abs(values.mean() - truth) <= 4 * values.std() / 150**0.5 + 1e-12 * (spectrum**2).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inexact", [1e-3, 0.3])
def test_inexact_known_pairs_leave_no_bias(inexact: float, dtype: torch.dtype) -> None:
    spectrum = SPECTRA["outliers"]
    a = matrix(spectrum, dtype)
    known = largest(a, 4, inexact)
    residuals = torch.linalg.vector_norm(
        known.vectors.double() @ a.double() - torch.from_numpy(known.values)[:, None] * known.vectors.double(), dim=1
    )
    assert inexact / 10 < residuals.max() < inexact * 10  # they are as inexact as they should be
    found = [estimated(a, "auto", 12, seed=seed, known=known) for seed in range(200)]
    for label, truth in (("value", spectrum.sum()), ("squares", (spectrum**2).sum())):
        values = np.array([getattr(f, label) for f in found])
        assert abs(values.mean() - truth) <= 4 * values.std() / 200**0.5 + 1e-6 * truth
    assert all(f.method == "deflated" for f in found)


@pytest.mark.parametrize("method", ["deflated", "hutch_plus_plus", "xtrace"])
def test_what_lies_in_the_subspace_is_exact(method: str) -> None:
    # the range of this matrix is exhausted long before the products are
    spectrum = np.array([5.0, 3.0, -2.0, *np.zeros(57)])
    found = estimated(matrix(spectrum), method, 30, 1e-8)
    assert found.value == pytest.approx(6.0, rel=1e-12)
    assert found.squares == pytest.approx(38.0, rel=1e-12)
    assert found.stderr <= 1e-12
    assert found.converged
    assert found.products < 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_zero_operator(method: str, dtype: torch.dtype) -> None:
    found = estimated(torch.zeros(50, 50, dtype=dtype), method, 20, 0.01)
    assert (found.value, found.stderr, found.low, found.high, found.squares) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert found.converged


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_one_parameter_and_two(method: str) -> None:
    found = estimated(torch.tensor([[-2.5]], dtype=torch.float64), method, 12)
    assert (found.value, found.squares) == (pytest.approx(-2.5), pytest.approx(6.25))
    if method in ("auto", "xtrace"):  # the space is soon all there is; signs see only +-1 of the coupling
        found = estimated(torch.tensor([[1.0, 20.0], [20.0, 3.0]], dtype=torch.float64), method, 12)
        assert found.value == pytest.approx(4.0)
        assert found.stderr == 0.0


def test_everything_known_costs_nothing() -> None:
    spectrum = SPECTRA["signed"]
    found = estimated(matrix(spectrum), "auto", 12, known=largest(matrix(spectrum), len(spectrum)))
    assert found.value == pytest.approx(spectrum.sum())
    assert found.squares == pytest.approx((spectrum**2).sum())
    assert (found.products, found.stderr) == (0, 0.0)


def test_float32_and_float64_agree() -> None:
    spectrum = SPECTRA["outliers"]
    exact = largest(matrix(spectrum), 4)
    for method in METHODS:
        fine = estimated(matrix(spectrum), method, 24, known=exact)
        coarse = estimated(matrix(spectrum, torch.float32), method, 24, known=exact)
        assert coarse.value == pytest.approx(fine.value, rel=1e-4)
        assert coarse.stderr == pytest.approx(fine.stderr, rel=1e-3)
        assert coarse.squares == pytest.approx(fine.squares, rel=1e-4)


# --- intervals -------------------------------------------------------------------------------------------------------


def held(name: str, method: str, vectors: int, tolerance: float, pairs: int) -> tuple[float, float]:
    """The share of 400 runs in which the interval holds the truth, and the mean number of products."""
    a = matrix(SPECTRA[name])
    truth = SPECTRA[name].sum()
    known = largest(a, pairs, 1e-3) if pairs else None
    found = [estimated(a, method, vectors, tolerance, seed, known) for seed in range(400)]
    return float(np.mean([f.low <= truth <= f.high for f in found])), float(np.mean([f.products for f in found]))


@pytest.mark.parametrize(
    ("name", "method", "vectors", "pairs"),
    [
        ("outliers", "hutchinson", 12, 0),
        ("one", "hutchinson", 4, 0),  # one squared normal number a vector
        ("one", "hutchinson", 20, 0),
        ("flat", "hutchinson", 4, 0),
        ("signed", "hutchinson", 8, 0),
        ("outliers", "deflated", 6, 4),
        ("signed", "deflated", 16, 1),
        ("outliers", "deflated", 20, 0),
        ("decaying", "deflated", 12, 0),
        ("outliers", "hutch_plus_plus", 24, 0),
        ("decaying", "hutch_plus_plus", 12, 0),
    ],
)
def test_the_interval_holds_the_truth_in_90_to_99_percent_of_runs(
    name: str, method: str, vectors: int, pairs: int
) -> None:
    assert 0.90 <= held(name, method, vectors, 0.0, pairs)[0] <= 0.99


@pytest.mark.parametrize(
    ("name", "method", "tolerance", "pairs"),
    [
        ("outliers", "hutchinson", 0.09, 0),
        ("one", "hutchinson", 0.4, 0),
        ("flat", "hutchinson", 0.01, 0),
        ("outliers", "deflated", 0.03, 4),
        ("outliers", "deflated", 0.04, 0),
        ("wider", "hutch_plus_plus", 0.04, 0),
    ],
)
def test_the_interval_holds_when_the_run_stops_at_a_tolerance(
    name: str, method: str, tolerance: float, pairs: int
) -> None:
    vectors = 120 if name == "wider" else 59  # fewer than dimensions
    share, products = held(name, method, vectors, tolerance, pairs)
    assert 0.90 <= share <= 0.99
    assert 2 * FEWEST < products < 0.9 * vectors  # the rule decided, not the budget or the fewest


def test_the_error_estimate_of_xtrace_is_its_own_and_too_small_where_the_spectrum_decays() -> None:
    # what the module says about it: a factor of 1.2 to 1.5, and so `auto` never takes it
    spectrum = SPECTRA["decaying"]
    found = [estimated(matrix(spectrum), "xtrace", 20, seed=seed) for seed in range(200)]
    error = np.array([f.value - spectrum.sum() for f in found])
    stated = np.array([f.stderr for f in found])
    assert 1.0 < ((error**2).mean() / (stated**2).mean()) ** 0.5 < 1.7


@pytest.mark.parametrize("vectors", [6, 10])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_interval_of_the_squares_holds_the_frobenius_norm(name: str, vectors: int) -> None:
    """In 92 to 96% of cases; 200 runs, four standard errors. That of mean +- 1.96 stderr held 75 to 90%."""
    spectrum = SPECTRA[name]
    found = [estimated(matrix(spectrum), "hutchinson", vectors, seed=seed) for seed in range(200)]
    held = np.mean([f.squares_low <= (spectrum**2).sum() <= f.squares_high for f in found])
    assert 0.94 - 4 * (0.94 * 0.06 / 200) ** 0.5 <= held <= 0.995
    assert all(f.squares_low < f.squares < f.squares_high for f in found)


def test_ends_that_nothing_tells_are_infinite() -> None:
    spectrum = SPECTRA["decaying"]
    three = estimated(matrix(spectrum), "hutchinson", 3)
    assert (three.squares_low, three.squares_high) == (-np.inf, np.inf)
    assert np.isfinite([three.low, three.high]).all()
    found = estimated(matrix(spectrum), "xtrace", 20)
    assert (found.low, found.high, found.squares_low, found.squares_high) == (-np.inf, np.inf, -np.inf, np.inf)


# --- products and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 7, 12, 13, 80])
def test_a_budget_is_used_and_kept(method: str, vectors: int) -> None:
    a = matrix(np.linspace(-1, 1, 300))
    if method == "xtrace" and vectors < 4:
        with pytest.raises(ValueError, match="needs 4 products"):
            estimated(a, method, vectors)
        return
    found = estimated(a, method, vectors)
    assert found.products == (vectors // 2 * 2 if method == "xtrace" else vectors)
    assert math.isinf(found.stderr) == (vectors == 1)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("size", range(1, 9))
def test_few_dimensions_are_taken_one_by_one(method: str, size: int) -> None:
    # random signs see of two dimensions only whether they agree: 8 vectors were wrong, with no error, in 11 of 100
    for seed in range(20):
        a = torch.randn(size, size, generator=stream(seed), dtype=torch.float64)
        a = (a + a.T) / 2
        found = estimated(a, method, 8, 0.01, seed)
        assert (found.method, found.stderr, found.products) == ("exact", 0.0, size)
        assert found.low <= float(a.trace()) <= found.high
        assert found.high - found.low < 1e3 * torch.finfo(torch.float64).eps * size**0.5
        assert found.squares == pytest.approx(float((a**2).sum()), rel=1e-12)


def test_sampling_gives_way_once_it_would_take_as_many_products() -> None:
    a = matrix(np.linspace(-1, 1, 150))  # the trace is 0, to no share of which anything converges
    found = estimated(a, "hutchinson", 1000, 0.01)
    assert (found.method, found.stderr, found.products) == ("exact", 0.0, FEWEST + 150)
    assert estimated(a, "hutchinson", 100, 0.01).method == "hutchinson"
    known = largest(a, 100)
    after = estimated(a, "auto", 60, 0.01, known=known)
    assert (after.method, after.products) == ("exact", 50)
    assert after.low <= 0.0 <= after.high


def test_few_vectors_do_not_take_a_single_pair_of_coordinates_for_certain() -> None:
    a = torch.eye(200, dtype=torch.float64)
    a[0, 1] = a[1, 0] = 200.0
    for vectors in (2, 3, 4, 5):  # all signs agree in 1 of 2, 4, 8, 16 cases, with components that do not vary
        found = [estimated(a, "hutchinson", vectors, 0.01, seed) for seed in range(200)]
        assert sum(f.low <= 200 <= f.high for f in found) >= 180


@pytest.mark.parametrize("method", METHODS)
def test_it_stops_at_the_tolerance(method: str) -> None:
    a = matrix(np.linspace(1, 2, 200))
    found = estimated(a, method, 1000, 0.01)
    assert found.converged
    assert found.stderr <= 0.01 * abs(found.value)
    # Hutch++ plans for all of its products: two thirds of them are spent before the first error is known
    assert found.products < (700 if method == "hutch_plus_plus" else 120)


def test_auto_takes_what_was_measured_to_be_best() -> None:
    a = matrix(SPECTRA["outliers"])
    assert estimated(a, "auto", ENOUGH - 1).method == "hutchinson"
    assert estimated(a, "auto", ENOUGH).method == "deflated"
    nothing = SimpleNamespace(values=np.empty(0), vectors=torch.empty(0, len(a), dtype=a.dtype))
    assert estimated(a, "auto", 4, known=nothing).method == "hutchinson"
    assert estimated(a, "auto", 4, known=largest(a, 1)).method == "deflated"
    assert estimated(a, "auto", 30).value == estimated(a, "deflated", 30).value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", [0, 5, 1000])
def test_vectors_held_fit_the_room(method: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a = matrix(np.linspace(-1, 1, 200))
    of = operator(a, room=room)
    found = trace(of, method, 100, 0.0, stream())
    assert found.products == of.products <= 100
    if method == "deflated" and room == 1000:
        again = trace(operator(a), method, 100, 0.0, stream())
        assert found == again
        assert found.products == 100 > STEPS
    if room == 0 and method != "xtrace":
        assert found.value == trace(operator(a), "hutchinson", 100, 0.0, stream()).value


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_a_product_that_is_not_finite_is_an_error(method: str, bad: float) -> None:
    a = matrix([1.0, 2.0, 3.0, 4.0, 5.0])
    a[0, 0] = bad
    with pytest.raises(ArithmeticError, match="not finite"):
        estimated(a, method, 12)


def test_the_generator_decides_alone() -> None:
    a = matrix(SPECTRA["signed"])
    for method in METHODS:
        first, again, other = (estimated(a, method, 12, seed=seed) for seed in (0, 0, 1))
        assert first == again
        assert first.value != other.value
