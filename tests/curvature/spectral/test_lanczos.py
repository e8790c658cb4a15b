"""Lanczos on matrices whose spectrum is set: both ends, with errors that hold, also within little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Ends, lanczos, warm_start
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from tests.support.spectra import matrix, operator, stream

GAPPED = np.concatenate([[-3.0, -2.5], np.linspace(-0.1, 0.5, 194), [2.0, 2.2, 5.0, 9.0]])


def begun(a: torch.Tensor, seed: int = 0, steps: int = 0) -> Krylov:
    of = operator(a)
    krylov = Krylov(of, direction(of, stream(seed)))
    for _ in range(steps):
        krylov.extend()
    return krylov


def run(
    a: torch.Tensor,
    top: int,
    bottom: int,
    tolerance: float = 1e-10,
    budget: int = 10_000,
    seed: int = 0,
    room: int | None = None,
    complete: bool = False,
) -> Ends:
    return lanczos(begun(a, seed), top, bottom, tolerance, budget, stream(seed + 1), room, complete)


def together(found: Ends) -> torch.Tensor:
    return torch.cat([found.top.vectors, found.bottom.vectors]).double()


# --- values, vectors and their errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [None, 20])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("seed", range(5))
def test_both_ends_signed_and_within_the_tolerance(tolerance: float, seed: int, room: int | None) -> None:
    found = run(matrix(GAPPED, seed=seed), 4, 2, tolerance, seed=seed, room=room)
    for pairs, truth in ((found.top, [9.0, 5.0, 2.2, 2.0]), (found.bottom, [-3.0, -2.5])):
        assert pairs.converged.all()
        error = np.abs(pairs.values - truth)
        assert (error <= pairs.residuals + 1e-13).all()  # rounding of the matrix itself
        assert (error <= tolerance * np.abs(truth)).all()
        assert (pairs.bounds <= pairs.residuals).all()
        assert (pairs.bounds <= tolerance * np.abs(pairs.values)).all()
    assert found.products < 200


def test_a_pair_of_opposite_eigenvalues_is_two_eigenvalues() -> None:
    # power iteration on |lambda| mixes the two
    found = run(matrix([2.0, -2.0, *np.linspace(-1, 1, 60)]), 1, 1)
    assert found.top.values[0] == pytest.approx(2.0, rel=1e-10)  # the tolerance
    assert found.bottom.values[0] == pytest.approx(-2.0, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_150_steps_leave_no_ghost_copies(seed: int) -> None:
    spectrum = np.array([50.0, 30.0, 20.0, 15.0, 12.0, *np.linspace(0.0, 1.0, 395)])
    krylov = begun(matrix(spectrum, seed=seed), seed, steps=150)  # long enough for orthogonality to go, left alone
    values, _ = krylov.ritz()
    assert values[::-1][:5] == pytest.approx(np.sort(spectrum)[::-1][:5], rel=1e-12)
    assert values[-6] <= 1.0 + 1e-12  # the rest lie in the bulk
    assert (krylov.basis @ krylov.basis.T - torch.eye(150)).abs().max() < 1e-12
    found = run(matrix(spectrum, seed=seed), 10, 0, 1e-12, seed=seed)
    assert found.products > 50
    assert found.top.values == pytest.approx(np.sort(spectrum)[::-1][:10], rel=1e-10)


@pytest.mark.parametrize("room", [None, 12])
def test_vectors_are_orthonormal_and_satisfy_the_eigenvalue_equation(room: int | None) -> None:
    a = matrix([*np.linspace(-1, 1, 100), 4.0, 4.001, 7.0], dtype=torch.float32)
    found = run(a, 3, 2, 1e-3, room=room)
    vectors = together(found)
    assert (vectors @ vectors.T - torch.eye(5)).abs().max() < 1e-5  # float32
    for pairs in (found.top, found.bottom):
        assert pairs.converged.all()
        values = torch.from_numpy(pairs.values)[:, None]
        true_residual = (pairs.vectors.double() @ a.double() - values * pairs.vectors.double()).norm(dim=1)
        # the estimate from the recurrence is the true residual up to the rounding of float32 products, which it holds
        assert (true_residual.numpy() <= pairs.residuals).all()
        assert pairs.residuals == pytest.approx(true_residual.numpy(), abs=1e2 * torch.finfo(torch.float32).eps * 7.0)


SPECTRA = {
    "gapped": GAPPED,
    "geometric": np.geomspace(1e-4, 1.0, 150),
    "signed": np.concatenate([-np.geomspace(0.01, 3.0, 60), np.geomspace(0.01, 4.0, 90)]),
    "close": np.array([*np.linspace(-0.1, 0.1, 100), 1.0, 1.05, 2.0, 2.1, 3.0]),
}


@pytest.mark.parametrize("name", list(SPECTRA))
def test_what_has_converged_has_errors_within_its_bounds(name: str) -> None:
    spectrum = np.sort(SPECTRA[name])
    sharper = 0
    for seed in range(20):
        for budget in range(8, 40, 4):
            found = run(matrix(spectrum, seed=seed), 3, 2, 1e-3, budget, seed)
            for pairs, truth in ((found.top, spectrum[::-1][:3]), (found.bottom, spectrum[:2])):
                error = np.abs(pairs.values - truth)[pairs.converged]
                assert (error <= pairs.bounds[pairs.converged] + 1e-13).all()  # rounding of the matrix itself
                sharper += int((pairs.bounds < pairs.residuals / 2)[pairs.converged].sum())
    assert sharper > 20  # and it is not just the residual


@pytest.mark.parametrize("room", [None, 14])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(k: int, room: int | None) -> None:
    spectrum = [*[5.0] * 3, *[1.0] * 20, *[-2.0] * 2, *[0.0] * 15]
    found = run(matrix(spectrum), k, k, room=room)
    assert found.top.values == pytest.approx(sorted(spectrum)[::-1][:k], abs=1e-12)
    assert found.bottom.values == pytest.approx(sorted(spectrum)[:k], abs=1e-12)
    vectors = together(found)
    assert (vectors @ vectors.T - torch.eye(2 * k)).abs().max() < 1e-10


@pytest.mark.parametrize("room", [None, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_zero_operator(dtype: torch.dtype, room: int | None) -> None:
    found = run(torch.zeros(50, 50, dtype=dtype), 3, 2, 1e-3, room=room)
    assert (found.top.values == 0).all()
    assert (found.bottom.values == 0).all()
    assert found.top.converged.all()
    assert found.products <= 4


def test_one_parameter_and_more_pairs_than_parameters() -> None:
    single = run(torch.tensor([[-2.5]]), 3, 3)
    assert list(single.top.values) == [-2.5]
    assert list(single.bottom.values) == [-2.5]
    small = run(matrix([1.0, 2.0, -3.0]), 5, 5)
    assert small.top.values == pytest.approx([2.0, 1.0, -3.0], abs=1e-14)
    assert small.bottom.values == pytest.approx([-3.0, 1.0, 2.0], abs=1e-14)
    assert small.top.converged.all()
    assert small.products == 3


def test_one_end_alone() -> None:
    a = matrix([*np.linspace(-1, 1, 40), -9.0, 6.0])
    bottom = run(a, 0, 1)
    assert len(bottom.top.values) == 0
    assert bottom.bottom.values == pytest.approx([-9.0], rel=1e-10)  # the tolerance
    top = run(a, 1, 0, tolerance=1e-3)
    assert len(top.bottom.values) == 0
    assert top.products < run(a, 1, 5, tolerance=1e-3).products


HUGE = {
    "bottom": [-1000.0, *np.linspace(-0.01, 0.00994, 99)],
    "two at the bottom": [-1e5, -9e4, *np.linspace(-0.01, 0.00994, 99)],
    "top": [1e4, *np.linspace(-0.01, 0.00994, 99)],
    "all negative": [-1000.0, *np.linspace(-0.02, -0.01, 99)],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_each_end_converges_relative_to_its_own_size(name: str, tolerance: float, dtype: torch.dtype) -> None:
    # -1000 beside 0.01 made the top "converged" after two products, at 2.5e-4
    spectrum = np.sort(HUGE[name])
    for seed in range(5):
        found = run(matrix(spectrum, seed=seed).to(dtype), 2, 2, tolerance, 500, seed)
        for pairs, truth in ((found.top, spectrum[::-1][:2]), (found.bottom, spectrum[:2])):
            rounding = torch.finfo(dtype).eps * np.abs(spectrum).max()
            error = np.abs(pairs.values - truth)
            assert (error <= pairs.bounds + rounding).all()  # of the matrix itself
            assert (error <= tolerance * np.abs(truth) + rounding)[pairs.converged].all()
            assert (pairs.bounds <= tolerance * np.abs(pairs.values))[pairs.converged].all()
            small = np.abs(truth) < 1
            if dtype == torch.float64:
                assert pairs.converged.all()
            else:  # below the rounding of the other end nothing is resolved, and that is said
                assert not pairs.converged[small].any()
                assert (pairs.bounds > tolerance * np.abs(truth))[small].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_does_not_tell_from_zero_has_not_converged(dtype: torch.dtype) -> None:
    spectrum = np.concatenate([np.zeros(5), np.geomspace(1e-2, 1.0, 40), [10.0]])
    found = run(matrix(spectrum, dtype), 1, 1, 1e-3)
    assert not found.bottom.converged.any()
    assert abs(found.bottom.values[0]) <= found.bottom.bounds[0] < 1e3 * torch.finfo(dtype).eps * 10
    assert found.products <= 46


def test_the_bottom_of_a_semidefinite_operator_is_held_against_the_norm_and_says_so() -> None:
    spectrum = np.concatenate([[1e-12], np.geomspace(1e-6, 1.0, 150), [10.0]])
    a = matrix(spectrum)
    of = LinearOperator(len(a), lambda v: a @ v, a.dtype, a.device, semidefinite=True)
    found = lanczos(Krylov(of, direction(of, stream())), 1, 1, 1e-3, 10_000, stream(1))
    assert found.bottom.converged.all()
    assert found.bottom.scales == pytest.approx([1e-2 * 10.0])
    assert found.top.scales == pytest.approx([10.0])
    assert abs(found.bottom.values[0] - 1e-12) <= found.bottom.bounds[0] <= 1e-3 * 1e-2 * 10.0
    assert found.products < run(a, 1, 1, 1e-3).products


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_product_that_is_not_finite_is_an_error(bad: float) -> None:
    a = matrix([1.0, 2.0, 3.0])
    a[0, 0] = bad
    with pytest.raises(ArithmeticError, match="not finite"):
        run(a, 1, 1)


# --- whether a copy is missing ---------------------------------------------------------------------------------------


FOLD = np.array([3, 3, 3, 2, 1.5, 1, *np.linspace(-0.9, 0.9, 150), -1, -2, -2])


@pytest.mark.parametrize("room", [None, 16, 60])
@pytest.mark.parametrize("seed", range(5))
def test_no_copy_is_missing_where_the_list_is_complete(seed: int, room: int | None) -> None:
    a = matrix(FOLD, seed=seed)
    alone = run(a, 4, 3, 1e-3, seed=seed, room=room)
    assert alone.top.converged.all()  # each is an eigenvalue, though copies are missing
    assert (alone.top.values < 0.999 * np.array([3, 3, 3, 2])).any()
    assert (alone.top.complete, alone.bottom.complete) == (False, False)
    found = run(a, 4, 3, 1e-6, seed=seed, room=room, complete=True)
    assert found.top.values == pytest.approx([3, 3, 3, 2], rel=1e-6)
    assert found.bottom.values == pytest.approx([-2, -2, -1], rel=1e-6)
    assert (found.top.complete, found.bottom.complete) == (True, True)
    assert found.top.converged.all()
    assert found.bottom.converged.all()
    vectors = together(found)
    assert (vectors @ vectors.T - torch.eye(7)).abs().max() < 1e-10
    for pairs in (found.top, found.bottom):
        true_residual = (pairs.vectors @ a - torch.from_numpy(pairs.values)[:, None] * pairs.vectors).norm(dim=1)
        assert (true_residual.numpy() <= 2 * pairs.residuals).all()


@pytest.mark.parametrize("top", [1, 10])
def test_looking_for_a_copy_costs_about_as_many_products_again_and_nothing_where_it_is_off(top: int) -> None:
    without, beside = 0, 0
    for seed in range(20):
        a = matrix(GAPPED, seed=seed)
        once, twice = (run(a, top, 0, 1e-3, seed=seed, complete=c) for c in (False, True))
        assert twice.top.complete
        assert twice.top.values == pytest.approx(once.top.values, rel=1e-3)
        without += once.products
        beside += twice.products
    assert beside <= 2.2 * without


def test_a_search_for_copies_that_is_cut_short_says_so() -> None:
    a = matrix(FOLD)
    needed = run(a, 4, 3, 1e-6).products
    cut = run(a, 4, 3, 1e-6, budget=needed + 5, complete=True)
    assert cut.products == needed + 5
    assert (cut.top.complete, cut.bottom.complete) == (False, False)


def test_the_krylov_space_of_others_stays_as_it_was() -> None:
    krylov = begun(matrix(FOLD))
    lanczos(krylov, 4, 3, 1e-6, 10_000, stream(1), 200, complete=True)
    assert not krylov.released
    assert krylov.steps < 100
    assert (krylov.basis @ krylov.basis.T - torch.eye(krylov.steps)).abs().max() < 1e-10


def test_a_kernel_at_the_bottom_is_found_as_often_as_is_asked_for() -> None:
    spectrum = np.concatenate([np.zeros(100), np.geomspace(1e-4, 1.0, 50)])
    a = matrix(spectrum)
    of = LinearOperator(len(a), lambda v: a @ v, a.dtype, a.device, semidefinite=True)
    found = lanczos(Krylov(of, direction(of, stream())), 2, 4, 1e-3, 1000, stream(1), complete=True)
    assert (np.abs(found.bottom.values) <= found.bottom.bounds).all()
    assert (found.bottom.bounds <= 1e-3 * 1e-2).all()
    assert found.bottom.converged.all()
    assert (found.top.complete, found.bottom.complete) == (True, True)
    assert found.top.values == pytest.approx(spectrum[::-1][:2], rel=1e-3)


# --- budgets, shared Krylov spaces, memory ---------------------------------------------------------------------------


def test_out_of_budget_is_said_and_the_residual_still_holds() -> None:
    spectrum = np.linspace(0, 1, 300)  # no gaps: slow
    found = run(matrix(spectrum), 1, 0, 1e-6, budget=10)
    assert found.products == 10
    assert not found.top.converged.any()
    assert len(found.top.only_converged().values) == 0
    assert np.abs(spectrum - found.top.values[0]).min() <= found.top.residuals[0]


def test_the_start_vector_comes_from_the_generator_alone() -> None:
    a = matrix(np.linspace(-1, 1, 80))
    first, again, other = (run(a, 1, 1, 1e-3, seed=s) for s in (0, 0, 1))
    assert (first.top.values == again.top.values).all()
    assert first.top.values[0] != other.top.values[0]


@pytest.mark.parametrize("room", [None, 20])
@pytest.mark.parametrize("budget", [15, 10_000])
@pytest.mark.parametrize("steps", [1, 10, 15, 60])
def test_a_space_that_somebody_else_extended_gives_the_same_bits_for_what_is_missing(
    steps: int, budget: int, room: int | None
) -> None:
    a = matrix(GAPPED)
    fresh = run(a, 4, 2, 1e-8, budget, room=room)
    extended = lanczos(begun(a, 0, steps), 4, 2, 1e-8, budget, stream(1), room)
    for one, other in ((fresh.top, extended.top), (fresh.bottom, extended.bottom)):
        assert (one.values == other.values).all()
        assert (one.residuals == other.residuals).all()
        assert (one.bounds == other.bounds).all()
        assert (one.converged == other.converged).all()
        assert torch.equal(one.vectors, other.vectors)
    seen = min(steps, 20 if room else 200)  # beyond the room, what is seen is lost at the restart
    assert extended.products == max(0, fresh.products - seen)


@pytest.mark.parametrize("room", [9, 10, 13, 20, 30])
def test_restarts_give_the_same_values_and_orthonormal_vectors(room: int) -> None:
    a = matrix(GAPPED)
    free, tight = run(a, 4, 2), run(a, 4, 2, room=room)
    assert tight.products >= free.products
    assert tight.top.converged.all()
    assert tight.bottom.converged.all()
    assert tight.top.values == pytest.approx(free.top.values, rel=2e-10)  # the tolerance, twice
    assert tight.bottom.values == pytest.approx(free.bottom.values, rel=2e-10)
    vectors = together(tight)
    assert (vectors @ vectors.T - torch.eye(6)).abs().max() < 1e-10
    for pairs in (tight.top, tight.bottom):
        true_residual = (pairs.vectors @ a - torch.from_numpy(pairs.values)[:, None] * pairs.vectors).norm(dim=1)
        # products and rotations of float64 with a norm of 9, a few hundred times
        assert pairs.residuals == pytest.approx(true_residual.numpy(), abs=1e-12)


def test_too_little_room_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"need room for 9 vectors, not 8: ask for fewer pairs, or give more memory"):
        run(matrix(GAPPED), 4, 2, room=8)
    assert run(matrix([1.0, 2.0, -3.0]), 5, 5, room=3).products == 3  # no more than there are dimensions


def test_after_a_restart_the_krylov_space_says_that_its_basis_is_gone() -> None:
    krylov = begun(matrix(GAPPED))
    lanczos(krylov, 4, 2, 1e-10, 10_000, stream(), 9)
    with pytest.raises(ValueError, match="build another one from its start vector"):
        lanczos(krylov, 1, 0, 1e-10, 10_000, stream(), None)


# --- warm starts, and what a start vector hides ----------------------------------------------------------------------


def test_a_warm_start_saves_products() -> None:
    a = matrix(GAPPED)
    near = a + 1e-3 * matrix(np.linspace(-1, 1, 200), seed=1)
    truth = torch.linalg.eigvalsh(near).flip(0)[:2].numpy()
    cold, warm = 0, 0
    for seed in range(20):
        before = run(a, 2, 0, 1e-3, seed=seed)
        of = operator(near)
        begin = warm_start(before.top.only_converged().vectors, of, stream(seed))
        found = lanczos(Krylov(of, begin), 2, 0, 1e-3, 200, stream(seed))
        assert found.top.values == pytest.approx(truth, rel=1e-3)
        warm += found.products
        cold += run(near, 2, 0, 1e-3, seed=seed + 100).products
    assert warm < 0.9 * cold


@pytest.mark.parametrize("seed", range(20))
def test_a_warm_start_finds_what_has_newly_become_the_top(seed: int) -> None:
    a = matrix(GAPPED)
    before = run(a, 2, 0, 1e-3, seed=seed)
    drawn = torch.linalg.eigh(a)[1][:, 50]  # of the bulk: as little of it in the start vector as there can be
    of = operator(a + 10.0 * torch.outer(drawn, drawn))
    begin = warm_start(before.top.vectors, of, stream(seed))
    found = lanczos(Krylov(of, begin), 2, 0, 1e-3, 200, stream(seed))
    truth = torch.linalg.eigvalsh(a + 10.0 * torch.outer(drawn, drawn)).flip(0)[:2].numpy()
    assert found.top.values == pytest.approx(truth, rel=1e-3)


def drawn(seed: int, spread: float) -> np.ndarray:
    """A bulk, eight outliers and a negative end; neighbors among those differ by a factor of at least 1 + spread."""
    draws = np.random.default_rng(seed)
    outliers = [0.6]
    while len(outliers) < 8:
        outliers.append(outliers[-1] * (1 + spread + draws.exponential(0.3)))
    return np.concatenate([draws.uniform(-0.1, 0.1, 150), outliers, [-0.11 * (1 + spread) - draws.exponential(0.3)]])


def mistaken(seeds: range, top: int, bottom: int, tolerance: float) -> int:
    """In how many runs some value is off by more than the tolerance; all are within their residual of an eigenvalue."""
    wrong = 0
    for seed in seeds:
        spectrum = np.sort(drawn(seed, spread=0.002))
        found = run(matrix(spectrum, seed=seed), top, bottom, tolerance, seed=seed)
        for pairs in (found.top, found.bottom):
            nearest = np.abs(spectrum[:, None] - pairs.values).min(axis=0, initial=np.inf)
            assert (nearest <= pairs.residuals + 1e-13).all()
        off = np.abs(found.top.values - spectrum[::-1][:top]) > tolerance * spectrum[::-1][:top]
        floor = tolerance * np.maximum(np.abs(spectrum[:bottom]), 1e-2 * spectrum[-1])
        wrong += bool(off.any() or (np.abs(found.bottom.values - spectrum[:bottom]) > floor).any())
    return wrong


@pytest.mark.parametrize(
    ("top", "bottom", "tolerance", "share"), [(1, 0, 1e-2, 10), (1, 0, 1e-3, 16), (5, 1, 1e-2, 5), (5, 1, 1e-3, 5)]
)
def test_a_close_neighbor_is_rarely_returned_for_an_extreme_value_and_is_an_eigenvalue(
    top: int, bottom: int, tolerance: float, share: int
) -> None:
    # the limit of a random start: `share` of 1,800 runs were wrong at seeds 1,000 to 2,799; here 3 sigma more of 300
    expected = share / 1800 * 300
    assert mistaken(range(300), top, bottom, tolerance) <= expected + 3 * expected**0.5
