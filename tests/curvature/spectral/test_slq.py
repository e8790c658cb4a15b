"""Quadratures of set spectra: exact to their degree, unbiased with pairs taken out, and the same however they began."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lossgeo.curvature.spectral.krylov import Krylov, combine, direction
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.slq import Quadrature, density
from tests.support.spectra import largest, matrix, operator, stream

PARTED = np.concatenate([-np.linspace(0.5, 1, 40), np.linspace(0.2, 1, 100), [3.0, 4.0, 5.0]])


def density_of(
    a: torch.Tensor, steps: int, vectors: int, seed: int = 0, known: SimpleNamespace | None = None
) -> Quadrature:
    of = operator(a)
    found = density(of, steps, vectors, stream(seed), known)
    assert found.products == of.products <= steps * vectors
    require_quadratures(found, vectors)
    return found


def require_quadratures(found: Quadrature, vectors: int) -> None:
    assert (np.unique(found.vector) == np.arange(vectors)).all()
    assert (found.weight >= 0).all()
    assert found.sums(np.ones(len(found.node))) == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(found.node) >= 0)[np.diff(found.vector) == 0].all()  # ascending within a vector
    assert found.weight[found.known] == pytest.approx(1 / found.size, rel=1e-12)


def start(a: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return direction(operator(a), stream(seed))


def begun(a: torch.Tensor, steps: int, seed: int = 0) -> Krylov:
    """What a search for eigenvalues leaves behind: a Krylov space from a random direction, nothing deflated."""
    space = Krylov(operator(a), start(a, seed))
    for _ in range(steps):
        space.extend()
    return space


def searched(space: Krylov, top: int) -> SimpleNamespace:
    values, weights = space.ritz()
    return SimpleNamespace(
        values=values[::-1][:top].copy(),
        residuals=space.beta[-1] * np.abs(weights[-1, ::-1][:top]),
        vectors=combine(weights[:, ::-1][:, :top], space.basis),
    )


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "dtype", "rel"), [(5, torch.float64, 1e-10), (2, torch.float32, 1e-5)])
def test_exact_for_polynomials_of_degree_twice_the_steps_less_one(steps: int, dtype: torch.dtype, rel: float) -> None:
    a = matrix(np.linspace(-0.6, 1, 90), dtype)
    found = density_of(a, steps, 1)
    u = start(a).double()
    for degree in range(2 * steps + 1):
        power = float(u @ torch.linalg.matrix_power(a.double(), degree) @ u)
        by_nodes = float(found.sums(found.node**degree)[0])
        if degree < 2 * steps:
            assert by_nodes == pytest.approx(power, rel=rel, abs=rel)
    assert by_nodes != pytest.approx(power, rel=1e-4)  # the next degree is not


def test_trace_and_squares_are_those_of_the_start_vectors() -> None:
    a = matrix(PARTED)
    found = density_of(a, 5, 3)
    generator = stream()
    images = []
    for _ in range(3):
        u = direction(operator(a), generator)
        images.append((float(u @ a @ u), float((a @ u) @ (a @ u))))
    forms, squares = np.array(images).T * len(a)
    assert found.trace.value == pytest.approx(forms.mean(), rel=1e-13)
    assert found.squares.value == pytest.approx(squares.mean(), rel=1e-13)


def test_every_step_counts_and_extreme_nodes_are_eigenvalues() -> None:
    found = density_of(matrix(PARTED), 30, 4)
    assert found.products == len(found.node) == 120
    assert not found.known.any()
    for vector in range(4):
        assert found.node[found.vector == vector][-3:] == pytest.approx([3.0, 4.0, 5.0], rel=1e-8)


def test_no_ghost_copies_in_a_long_run() -> None:
    spectrum = np.array([50.0, 30.0, 20.0, *np.linspace(0.0, 1.0, 397)])
    found = density_of(matrix(spectrum), 120, 1)
    assert (found.node > 1.1).sum() == 3


# --- breakdown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_breakdown_leaves_an_exact_quadrature_of_fewer_nodes(dtype: torch.dtype) -> None:
    spectrum = np.repeat([-1.0, 0.0, 2.0], [10, 30, 20])
    found = density_of(matrix(spectrum, dtype), 12, 3)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    if dtype == torch.float32:  # in float64 the repeated eigenvalues of this matrix differ, by its rounding
        assert found.products == 3 * 3
    assert np.abs(found.node[:, None] - [-1.0, 0.0, 2.0]).min(1) == pytest.approx(0.0, abs=tolerance)
    _, vectors = torch.linalg.eigh(matrix(spectrum))
    in_eigenspaces = (vectors.T @ start(matrix(spectrum))).square().split([10, 30, 20])
    for value, share in zip([-1.0, 0.0, 2.0], in_eigenspaces, strict=True):
        mass = found.sums(1.0 * (np.abs(found.node - value) < 0.1))[0]
        assert mass == pytest.approx(float(share.sum()), rel=1e3 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_zero_operator(dtype: torch.dtype) -> None:
    found = density_of(torch.zeros(40, 40, dtype=dtype), 10, 2)
    assert found.products == 2
    assert (found.node == 0).all()
    assert (found.weight == 1).all()
    assert (found.trace.value, found.trace.stderr, found.squares.value) == (0.0, 0.0, 0.0)


def test_one_parameter() -> None:
    a = torch.tensor([[-2.5]], dtype=torch.float64)
    found = density_of(a, 5, 2)
    assert (list(found.node), list(found.weight)) == ([-2.5, -2.5], [1.0, 1.0])
    assert found.trace.value == found.trace.low == found.trace.high == -2.5
    known = SimpleNamespace(
        values=np.array([-2.5]), residuals=np.zeros(1), vectors=torch.ones(1, 1, dtype=torch.float64)
    )
    found = density_of(a, 5, 2, known=known)
    assert (list(found.node), list(found.weight), list(found.known)) == ([-2.5] * 2, [1.0] * 2, [True] * 2)
    assert (found.products, found.trace.stderr) == (0, 0.0)


def test_more_steps_than_parameters_give_the_spectrum() -> None:
    found = density_of(matrix([1.0, 2.0, -3.0]), 10, 1)
    assert found.node == pytest.approx([-3.0, 1.0, 2.0], abs=1e-13)
    assert found.products == 3


# --- known pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inexact", [0.0, 1e-3])
def test_known_pairs_count_once_each_and_the_rest_is_orthogonal(inexact: float, dtype: torch.dtype) -> None:
    a = matrix(PARTED, dtype)
    known = largest(a, 3, inexact, torch.float32)
    found = density_of(a, 20, 2, known=known)
    assert found.known.sum() == 6
    assert found.node[found.known] == pytest.approx([3.0, 4.0, 5.0] * 2, abs=1e-5)
    assert found.node[~found.known].max() < 1.01  # nothing of them came back
    assert found.sums(1.0 * found.known) == pytest.approx(3 / 143)


@pytest.mark.parametrize("pairs", [0, 3])
def test_estimates_are_unbiased(pairs: int) -> None:
    a = matrix(PARTED)
    known = largest(a, pairs, 1e-3) if pairs else None
    found = [density_of(a, 12, 1, seed, known) for seed in range(300)]
    truths = {"trace": PARTED.sum(), "squares": (PARTED**2).sum(), "below": (PARTED < 0).mean()}
    for name, truth in truths.items():
        means = [f.average(f.node < 0) if name == "below" else getattr(f, name) for f in found]
        values = np.array([m.value for m in means])
        assert abs(values.mean() - truth) <= 4 * values.std() / 300**0.5 + 1e-6 * truth


# --- a space that was begun before -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "steps"), [(10, 25), (25, 25), (40, 25)])
def test_a_space_begun_before_gives_what_a_fresh_one_would(made: int, steps: int) -> None:
    a = matrix(PARTED)
    first = begun(a, made)
    found = density(first.operator, steps, 2, stream(1), first=first)
    require_quadratures(found, 2)
    assert found.products == max(0, steps - made) + steps
    fresh = density_of(a, steps, 1)
    mine = found.vector == 0
    assert (found.node[mine] == fresh.node).all()
    assert (found.weight[mine] == fresh.weight).all()
    # and the second vector is the one that the generator gives first
    assert (found.node[~mine] == density_of(a, steps, 1, 1).node).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [8, 14, 30, 45])
def test_known_pairs_come_out_of_a_space_begun_before_whether_converged_in_it_or_not(
    steps: int, dtype: torch.dtype
) -> None:
    a = matrix(PARTED, dtype)
    first = begun(a, 30)
    known = searched(first, 3)
    found = density(first.operator, steps, 2, stream(1), known, first)
    require_quadratures(found, 2)
    assert found.products == max(0, steps - 30) + steps
    # the same start vector, deflated from the beginning
    fresh = density_of(a, steps, 1, 0, known)
    assert found.known.sum() == 6
    assert found.node[~found.known].max() < 1.01
    for degree in range(5):
        same = pytest.approx(float(fresh.sums(fresh.node**degree)[0]), rel=1e-5)
        assert float(found.sums(found.node**degree)[0]) == same
    below = float(found.sums(1.0 * (found.node < 0))[0])
    assert below == pytest.approx(fresh.average(fresh.node < 0).value, rel=0.02)


def test_known_pairs_that_the_space_cannot_hold_come_out_of_it_all_the_same() -> None:
    # a Krylov space has one vector for each eigenvalue; the other copies were found by starting again
    spectrum = np.array([*[5.0] * 3, *np.linspace(-1, 1, 60)])
    a = matrix(spectrum)
    first = begun(a, 25)
    found = density(first.operator, 25, 2, stream(1), largest(a, 3), first)
    require_quadratures(found, 2)
    assert found.products == 25
    assert found.known.sum() == 6
    assert found.node[~found.known].max() < 1.01
    fresh = density_of(a, 25, 1, 0, largest(a, 3))
    assert float(found.sums(found.node)[0]) == pytest.approx(float(fresh.sums(fresh.node)[0]), rel=1e-9)


def test_a_start_vector_that_chose_the_known_pairs_is_drawn_afresh() -> None:
    # ten copies of each outlier, of which the space holds one: what is left of its start vector has none
    spectrum = np.array([*np.repeat([30.0, 20.0, 10.0], 10), *np.linspace(0.0, 1.0, 100)])
    a = matrix(spectrum)
    first = begun(a, 25)
    found = density(first.operator, 25, 2, stream(1), searched(first, 3), first)
    assert found.products == 50
    for vector in range(2):
        assert found.node[(found.vector == vector) & ~found.known].max() == pytest.approx(30.0, rel=1e-6)
    alone = density(first.operator, 25, 1, stream(1), searched(first, 3), first)
    assert alone.products == 25  # a vector alone cannot tell


MULTIPLE = {
    "tenfold": np.array([*np.repeat([30.0, 20.0, 10.0], 10), *np.linspace(0, 1, 100)]),
    "double": np.array([9, 9, 6, 6, 4, 4, 2, 2, *np.linspace(-0.5, 1, 150)]),
    "close": np.array([9, 9.001, 9.002, 6, 6.003, 4, 4.0005, *np.linspace(-0.5, 1, 100)]),
    "simple": PARTED,
    "few": np.array([5.0, 4.0, 3.0, 1.0, 1.0, 1.0, 0.5, -0.2]),
}


@pytest.mark.parametrize(("steps", "vectors", "pairs"), [(20, 4, 10), (12, 2, 5)])
@pytest.mark.parametrize("name", MULTIPLE)
def test_intervals_hold_when_the_space_of_the_known_pairs_serves_again(
    name: str, steps: int, vectors: int, pairs: int
) -> None:
    a, truth = matrix(MULTIPLE[name]), MULTIPLE[name].sum()
    held, values, stderr = 0, [], []
    for seed in range(200):
        generator = stream(seed)
        first = Krylov(operator(a), direction(operator(a), generator))
        pairs_found = lanczos(first, pairs, 0, 1e-3, min(steps, len(a)), generator).top.only_converged()
        found = density(first.operator, steps, vectors, generator, pairs_found, first).trace
        held += found.low - 1e-9 <= truth <= found.high + 1e-9
        values.append(found.value)
        stderr.append(found.stderr)
    assert abs(np.mean(values) - truth) <= 4 * np.std(values) / 200**0.5 + 1e-9
    assert held >= 180
    if min(stderr) > 1e-9:  # else it was exact, by as many steps as dimensions
        assert held <= 198


def test_other_vectors_serve_where_nothing_of_the_first_remains() -> None:
    spectrum = np.array([*[5.0] * 3, *np.linspace(-1, 1, 60)])
    a = matrix(spectrum)
    known = largest(a, 3)
    first = Krylov(operator(a), known.vectors.sum(0))  # no random direction, but within what is known
    first.extend()
    found = density(first.operator, 10, 1, stream(1), known, first)
    assert found.trace.value == pytest.approx(density_of(a, 10, 1, 1, known).trace.value)
    released = begun(a, 12)
    released.release(4)
    found = density(released.operator, 10, 1, stream(1), known, released)
    assert found.trace.value == pytest.approx(density_of(a, 10, 1, 1, known).trace.value)


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vectors", "pairs"), [(4, 0), (4, 3), (10, 3)])
def test_intervals_hold_the_truth_in_90_to_99_percent_of_runs(vectors: int, pairs: int) -> None:
    a = matrix(PARTED)
    known = largest(a, pairs, 1e-3) if pairs else None
    found = [density_of(a, 10, vectors, seed, known) for seed in range(200)]
    cases = {
        "below zero": ((PARTED < 0).mean(), [f.average(f.node < 0) for f in found]),
        "within an interval": (((PARTED > 0) & (PARTED < 2)).mean(), [f.average(abs(f.node - 1) < 1) for f in found]),
        "trace": (PARTED.sum(), [f.trace for f in found]),
        "squares": ((PARTED**2).sum(), [f.squares for f in found]),
    }
    for name, (truth, means) in cases.items():
        assert 180 <= sum(m.low <= truth <= m.high for m in means) <= 198, name


def test_one_vector_knows_the_error_of_its_trace_but_not_of_a_share() -> None:
    a = matrix(PARTED)
    found = density_of(a, 12, 1)
    n = len(a)
    variance = 2 * n / (n + 2) * ((PARTED**2).sum() - PARTED.sum() ** 2 / n)
    many = density_of(a, 12, 200).trace
    assert many.stderr == pytest.approx((variance / 200) ** 0.5, rel=0.1)
    assert found.trace.stderr == pytest.approx(variance**0.5, rel=0.5)
    share = found.average(found.node < 0)
    assert (share.stderr, share.low, share.high) == (np.inf, -np.inf, np.inf)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_product_that_is_not_finite_is_an_error(bad: float) -> None:
    a = matrix([1.0, 2.0, 3.0])
    a[0, 0] = bad
    with pytest.raises(ArithmeticError, match="not finite"):
        density_of(a, 3, 1)


def test_the_generator_decides_alone() -> None:
    a = matrix(PARTED)
    first, again, other = (density_of(a, 10, 2, seed) for seed in (0, 0, 1))
    assert (first.node == again.node).all()
    assert (first.node != other.node).any()
