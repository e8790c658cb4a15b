"""Every surface: derivatives against finite differences, known critical points, and rows that do not see each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lossgeo.components.catalog import catalog
from lossgeo.landscapes.critical_point import Theory
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces.himmelblau import Himmelblau
from lossgeo.landscapes.surfaces.linear_autoencoder import LinearAutoencoder
from lossgeo.landscapes.surfaces.octopus import Octopus
from lossgeo.landscapes.surfaces.quadratic import Quadratic
from lossgeo.landscapes.surfaces.random_hessians import RandomHessians
from lossgeo.landscapes.surfaces.spherical_p_spin import SphericalPSpin
from lossgeo.randomness import generator
from tests.support.surfaces import SURFACES

EPS = torch.finfo(torch.float64).eps


def stream(*names: str | int) -> torch.Generator:
    return generator(0, "surfaces", *names)


def points(surface: Surface, count: int) -> torch.Tensor:
    return torch.stack([surface.start(stream(number)) for number in range(count)])


def gradients(surface: Surface, theta: torch.Tensor) -> torch.Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(surface.value(leaf).sum(), leaf)[0]


def hessian(surface: Surface, theta: torch.Tensor) -> torch.Tensor:
    surface.value(theta)  # what a surface draws once it has drawn before derivatives are taken of it
    return torch.func.hessian(surface.value)(theta)


def test_the_surfaces_are_all_here() -> None:
    assert list(catalog(Surface)) == [
        "catapult",
        "himmelblau",
        "linear_autoencoder",
        "monkey_saddle",
        "noisy_saddle",
        "octopus",
        "quadratic",
        "quartic_saddle",
        "random_hessians",
        "rastrigin",
        "rosenbrock",
        "spherical_p_spin",
        "strict_saddle",
    ]


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_shapes_and_starts(surface: Surface) -> None:
    start = surface.start(stream("start"))
    assert start.shape == (surface.size,)
    assert start.dtype == torch.float64
    assert torch.equal(start, surface.start(stream("start")))
    many = points(surface, 6).view(2, 3, -1)
    assert surface.value(many).shape == (2, 3)
    tilts = surface.tilts()
    assert tilts.shape[1] == surface.size
    assert float(tilts.mean(0).abs().max()) == 0.0


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_gradients_and_hessians_are_those_of_finite_differences(surface: Surface) -> None:
    """Central differences of step h are off by c h^2, those of step 2 h by 4 c h^2, which tells c; and by rounding."""
    h = 1e-3
    for theta in points(surface, 3):
        for function, derivative in (
            (surface.value, gradients(surface, theta)),
            (lambda x: gradients(surface, x), hessian(surface, theta)),
        ):
            differences = {}
            for step in (h, 2 * h):
                moves = step * torch.eye(surface.size, dtype=torch.float64)
                ahead, behind = ([function(theta + sign * move) for move in moves] for sign in (1, -1))
                differences[step] = (torch.stack(ahead) - torch.stack(behind)) / (2 * step)
            predicted = float((differences[2 * h] - differences[h]).abs().max()) / 3
            rounding = 100 * EPS * max(1.0, float(function(theta).abs().max())) / h
            assert float((differences[h] - derivative).abs().max()) <= 1.1 * predicted + rounding


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_every_listed_point_is_critical_with_the_stated_loss_and_index(surface: Surface) -> None:
    listed = list(itertools.islice(surface.critical_points(), 300))
    if not isinstance(surface, SphericalPSpin):
        assert listed
    for point in listed:
        assert point.theta.shape == (surface.size,)
        assert float(gradients(surface, point.theta).abs().max()) < 1e-10
        value = float(surface.value(point.theta))
        assert abs(value - point.loss) <= 1e-12 * max(1.0, abs(value))
        spectrum = torch.linalg.eigvalsh(hessian(surface, point.theta))
        small = 1e-9 * max(1.0, float(spectrum.abs().max()))
        assert int((spectrum < -small).sum()) == point.index
        assert int((spectrum.abs() <= small).sum()) == point.zeros


def test_what_counts_as_a_saddle() -> None:
    kinds = {
        name: [p.is_saddle for p in s.critical_points()]
        for name, s in (
            ("octopus", Octopus(dimension=3)),
            ("himmelblau", Himmelblau()),
            ("quadratic", Quadratic(spectrum=(1.0, 0.0))),
        )
    }
    assert kinds["octopus"] == [True, True, True, False]
    assert kinds["himmelblau"] == [False] * 4 + [True] * 4 + [False]
    assert kinds["quadratic"] == [False]  # a valley
    flat = [next(iter(catalog(Surface)[name]().critical_points())) for name in ("monkey_saddle", "quartic_saddle")]
    assert all(point.is_saddle for point in flat)
    keeping_the_best = list(LinearAutoencoder(inputs=3, hidden=2).critical_points())
    assert [p.loss for p in keeping_the_best if not p.is_saddle] == [0.5]


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_a_row_has_the_same_bits_whichever_rows_stand_beside_it(surface: Surface) -> None:
    theta = points(surface, 130)
    together_values, together = surface.value(theta), gradients(surface, theta)
    for rows in ([0], [7], [3, 5], list(range(17)), list(range(129, -1, -2)), [129]):
        assert torch.equal(surface.value(theta[rows]), together_values[rows])
        assert torch.equal(gradients(surface, theta[rows]), together[rows])


@pytest.mark.parametrize("size", [1, 2, 10, 100, 1000, 40_000])
def test_long_rows_have_the_same_bits_too(size: int) -> None:
    surface = Quadratic(spectrum=(-1.0, 1.0) if size > 1 else (1.0,), dimension=size)
    theta = points(surface, 5)
    assert torch.equal(surface.value(theta[2:3]), surface.value(theta)[2:3])
    assert torch.equal(gradients(surface, theta[2:3]), gradients(surface, theta)[2:3])


# --- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"L": 3.0, "gamma": 0.3, "tau": 0.5}])
def test_the_octopus_is_continuous_with_its_first_derivative_across_all_seams(settings: dict[str, float]) -> None:
    surface = Octopus(dimension=4, **settings)
    tau = surface.tau
    draws = np.random.default_rng(0)
    for stage, seam in itertools.product(range(4), (1.0, 2.0)):
        for _ in range(5):
            theta = torch.zeros(4, dtype=torch.float64)
            theta[:stage] = torch.tensor(draws.uniform(2.2 * tau, 6 * tau, stage))
            theta[stage + 1 :] = torch.tensor(draws.uniform(-tau, tau, 3 - stage))
            below, above = theta.clone(), theta.clone()
            step = 1e-9 * tau
            below[stage], above[stage] = seam * tau - step, seam * tau + step
            slopes = gradients(surface, torch.stack([below, above]))
            values = surface.value(torch.stack([below, above]))
            curvature = 100 * (surface.L + surface.gamma)  # more than any second derivative here
            scale = curvature * 6 * tau
            assert abs(float(values[1] - values[0])) <= 2 * step * scale + 100 * EPS * scale * tau
            assert float((slopes[1] - slopes[0]).abs().max()) <= 2 * step * curvature + 100 * EPS * scale


def test_the_octopus_has_the_formula_of_the_source_in_every_region() -> None:
    """Written out region by region, as in the source, for three coordinates."""
    L, gamma, tau = 1.5, 1.0, 2.0
    surface = Octopus(dimension=3, L=L, gamma=gamma, tau=tau)
    nu = -_g1(2 * tau, L, gamma, tau) + 4 * L * tau**2
    assert surface.nu == pytest.approx(nu, rel=1e-12)
    for theta in itertools.product((-3.1, -0.5, 1.7, 2.9, 3.9, 4.4, 9.5), repeat=3):
        a = [abs(x) for x in theta]
        expected = 0.0
        for i in range(3):
            if a[i] > 2 * tau:
                expected += L * (a[i] - 4 * tau) ** 2 - nu
                continue
            rest = a[i + 1 :]
            if a[i] <= tau:
                expected += -gamma * a[i] ** 2 + L * sum(b**2 for b in rest)
            else:
                expected += _g1(a[i], L, gamma, tau)
                if rest:
                    expected += _g2(a[i], L, gamma, tau) * rest[0] ** 2 + L * sum(b**2 for b in rest[1:])
            break
        found = float(surface.value(torch.tensor(theta, dtype=torch.float64)))
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def _g1(x: float, L: float, gamma: float, tau: float) -> float:
    cubic = (-14 * L + 10 * gamma) / (3 * tau) * (x - tau) ** 3
    return -gamma * x**2 + cubic + (5 * L - 3 * gamma) / (2 * tau**2) * (x - tau) ** 4


def _g2(x: float, L: float, gamma: float, tau: float) -> float:
    w = x - 2 * tau
    cubic, quartic = 10 * (L + gamma) / tau**3 * w**3, 15 * (L + gamma) / tau**4 * w**4
    return -gamma - cubic - quartic - 6 * (L + gamma) / tau**5 * w**5


def test_a_rotated_quadratic_has_its_spectrum() -> None:
    surface = Quadratic(spectrum=(3.0, 1.0, -0.5), dimension=6, rotation=1)
    found = torch.linalg.eigvalsh(hessian(surface, surface.start(stream("x"))))
    expected = torch.tensor([-0.5] * 4 + [1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14 * 6)


def test_himmelblau_has_the_published_saddle_and_maximum_values() -> None:
    """Four saddles and one maximum, to four decimals."""
    by_index: dict[int, list[float]] = {}
    for point in Himmelblau().critical_points():
        by_index.setdefault(point.index, []).append(round(point.loss, 4))
    assert sorted(by_index[1]) == [13.3119, 67.7192, 104.0152, 178.3372]
    assert by_index[2] == [181.6165]
    assert by_index[0] == [0.0] * 4


def test_the_autoencoder_of_the_source_has_2517_sets_and_one_minimum() -> None:
    listed = list(LinearAutoencoder().critical_points())
    assert len(listed) == 2517
    assert [p.loss for p in listed if p.index == 0] == [0.5 * sum(range(1, 13))]
    assert (listed[0].loss, listed[0].index, listed[0].zeros) == (0.5 * sum(range(1, 17)), 64, 0)  # nothing is kept


def test_a_p_spin_has_energies_of_order_one_and_no_slope_along_the_radius_of_its_sphere() -> None:
    surface = SphericalPSpin(dimension=12)
    theta = points(surface, 200)
    energies = surface.value(theta) / surface.size
    # H / N at a random point is a Gaussian of variance 1 / N
    assert abs(float(energies.std()) * math.sqrt(12) - 1) < 0.35
    radial = (gradients(surface, theta) * theta).sum(-1)
    assert float(radial.abs().max()) <= 1e-12 * surface.size
    away = 0.5 * (2 * 12**0.5) ** 2  # what leaving the sphere costs, whatever the couplings are
    assert torch.allclose(surface.value(3 * theta), surface.value(theta) + away, rtol=1e-12)


def test_the_index_curve_of_the_p_spin_has_its_known_ends_and_middle() -> None:
    for p, threshold in ((3, -1.63299), (4, -1.73205), (5, -1.78885)):
        surface = SphericalPSpin(p=p, dimension=11)
        assert surface.theory(11 * (threshold - 1e-5), 0).index == 0
        assert surface.theory(11 * (threshold + 0.1), 0).index > 0.05
        assert surface.theory(0.0, 0).index == pytest.approx(5.0)  # half of the ten directions along the sphere
        assert surface.theory(-11 * threshold + 1.0, 0).index == pytest.approx(10.0)


def test_the_autoencoder_knows_the_loss_and_index_of_what_is_found() -> None:
    surface = LinearAutoencoder(inputs=5, hidden=2, covariance=(5.0, 4.0, 3.0, 2.0, 1.0))
    for point in surface.critical_points():
        assert surface.theory(point.loss + 1e-9, point.index) == Theory(point.loss, point.index)
    # the sets {5, 2} and {4, 3} keep the same; {5, 4} is the minimum, and nothing is below it
    assert surface.theory(4.0, 7) == Theory(4.0, 2)
    assert surface.theory(2.5, 0) == Theory(3.0, 0)
    assert LinearAutoencoder(inputs=100, hidden=50).theory(1.0, 0) is None
    assert Octopus().theory(0.0, 1) is None


def test_random_hessians_are_what_they_say_at_their_points_and_fade_out_between() -> None:
    surface = RandomHessians(dimension=3, count=50)
    for number, point in enumerate(surface.critical_points()):
        assert torch.equal(hessian(surface, point.theta), surface._hessians[number])
    edge = torch.tensor([[-1.0, 0.3, 0.2], [1.0, 0.3, 0.2], [99.0, 1.0, 1.0], [250.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(surface.value(edge).abs().max()) == 0.0
    assert float(gradients(surface, edge).abs().max()) == 0.0


@pytest.mark.parametrize(
    ("dimension", "probability"),
    [(1, 0.5), (2, (2 - 2**0.5) / 4), (3, (math.pi - 2 * 2**0.5) / (4 * math.pi))],
)
def test_random_hessians_have_the_exact_share_of_minima(dimension: int, probability: float) -> None:
    surface = RandomHessians(dimension=dimension, count=40_000)
    minima = int((torch.linalg.eigvalsh(surface._hessians)[:, 0] > 0).sum())
    sigma = (probability * (1 - probability) / 40_000) ** 0.5
    assert abs(minima / 40_000 - probability) < 4 * sigma
