"""Perturbed and noisy gradient descent: the algorithms of their sources, trial by trial."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lossgeo.optimizers.noisy_gd import NoisyGD
from lossgeo.optimizers.perturbed_gd import PerturbedGD, Theorem
from lossgeo.randomness import Noise
from tests.support.steps import given_loss


class Saddle:
    """f(x) = 1/2 sum lambda x^2 + 1/4 sum x^4 over the negative ones, row by row."""

    def __init__(self, curvatures: list[float]) -> None:
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)

    def gradient(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        walls = (self.curvatures < 0).double()
        value = (0.5 * self.curvatures * theta**2 + 0.25 * walls * theta**4).sum(-1)
        return value, self.curvatures * theta + walls * theta**3


def by_the_book(
    curvatures: list[float], theta: torch.Tensor, optimizer: PerturbedGD, lr: float, steps: int, seed: int
) -> tuple[torch.Tensor, int | None]:
    """Algorithm 2 of Jin et al. 2017 for one trial, written out as there; the step at which it returned."""
    landscape, noise = Saddle(curvatures), Noise(seed)
    threshold, radius, waiting, decrease = optimizer.constants(len(theta))
    last = -waiting - 1
    before, before_loss = theta, torch.zeros(())
    for t in range(steps):
        noise.begin(t)
        if torch.linalg.vector_norm(landscape.gradient(theta)[1]) <= threshold and t - last > waiting:
            before, before_loss, last = theta, landscape.gradient(theta)[0], t
            normal = noise.normal(len(theta) + 2)
            theta = theta + radius * (normal / torch.linalg.vector_norm(normal))[:-2]
        if decrease is not None and t - last == waiting and landscape.gradient(theta)[0] - before_loss > -decrease:
            return before, t
        theta = theta - lr * landscape.gradient(theta)[1]
    return theta, None


BY_HAND: dict[str, Any] = {"lr": 0.1, "gradient_threshold": 0.05, "radius": 0.02, "waiting": 30, "decrease": 1e-4}


@pytest.mark.parametrize("curvatures", [[1.0, -0.3], [1.0, 0.5, 0.2]], ids=["saddle", "bowl"])
def test_perturbed_gd_is_the_algorithm_of_its_source(curvatures: list[float]) -> None:
    optimizer = PerturbedGD(**BY_HAND)
    start = torch.tensor([0.4] + [0.0] * (len(curvatures) - 1), dtype=torch.float64)
    expected, returned = by_the_book(curvatures, start, optimizer, 0.1, 400, seed=3)
    theta, noise, at = start.clone(), Noise(3), None
    loss = given_loss(Saddle(curvatures).gradient, noise)
    state = optimizer.init(loss, theta)
    for step in range(400):
        noise.begin(step)
        taken = optimizer.step(loss, theta, state, 0.1)
        theta, state = taken.theta, taken.state
        if taken.ended is not None and bool(taken.ended):
            at = step
            break
    assert at == returned
    assert at is not None, "a minimum is recognized"
    assert abs(float(theta[1])) == pytest.approx(0.3**0.5 if min(curvatures) < 0 else 0.0, abs=0.05), "a saddle is left"
    torch.testing.assert_close(theta, expected, rtol=0, atol=0)


def test_constants_are_those_of_the_theorem() -> None:
    """Written out from the paper for l = 2, rho = 3, eps = 0.01, delta = 0.1, gap = 5, c = 0.5 in 40 dimensions."""
    optimizer = PerturbedGD(theorem=Theorem(smoothness=2.0, hessian_lipschitz=3.0, accuracy=0.01, gap=5.0, c=0.5))
    assert optimizer.lr == 0.25
    chi = 3 * max(math.log(40 * 2 * 5 / (0.5 * 0.01**2 * 0.1)), 4)
    found = optimizer.constants(40)
    assert found.gradient_threshold == pytest.approx(math.sqrt(0.5) / chi**2 * 0.01)
    assert found.radius == pytest.approx(math.sqrt(0.5) / chi**2 * 0.01 / 2)
    assert found.waiting == math.ceil(chi / 0.25 * 2 / math.sqrt(0.03))
    assert found.decrease == pytest.approx(0.5 / chi**3 * math.sqrt(0.01**3 / 3))


def test_kicks_are_uniform_in_the_ball() -> None:
    """|xi| / r has mean d / (d + 1), and directions have mean 0: 4,000 trials, 4 sigma."""
    dimension, trials = 3, 4000
    optimizer = PerturbedGD(lr=0.0, gradient_threshold=1.0, radius=2.0, waiting=1)
    theta = torch.zeros(trials, dimension, dtype=torch.float64)
    noise = Noise(0, lambda: torch.arange(trials))
    noise.begin(0)
    loss = given_loss(Saddle([1.0] * dimension).gradient, noise)
    kicked = optimizer.step(loss, theta, optimizer.init(loss, theta), 0.0).theta
    lengths = torch.linalg.vector_norm(kicked, dim=1) / 2
    assert float(lengths.max()) <= 1
    variance = dimension / (dimension + 2) - (dimension / (dimension + 1)) ** 2
    assert abs(float(lengths.mean()) - 0.75) <= 4 * math.sqrt(variance / trials)
    assert float(kicked.mean(0).abs().max()) <= 4 * 2 * math.sqrt(1 / (dimension + 2) / trials)


def test_noisy_gd_adds_a_vector_of_its_length() -> None:
    landscape = Saddle([1.0, -1.0, 0.5])
    theta = torch.ones(6, 3, dtype=torch.float64)
    noise = Noise(0, lambda: torch.arange(6))
    noise.begin(5)
    _, gradient = landscape.gradient(theta)
    taken = NoisyGD(noise=0.3).step(given_loss(landscape.gradient, noise), theta.clone(), {}, 0.1)
    added = (theta - 0.1 * gradient - taken.theta) / 0.1
    torch.testing.assert_close(torch.linalg.vector_norm(added, dim=1), torch.full((6,), 0.3).double())
    assert torch.unique(added, dim=0).shape[0] == 6


def test_two_descriptions_are_refused() -> None:
    theorem = Theorem(smoothness=1.0, hessian_lipschitz=1.0, accuracy=0.1)
    with pytest.raises(ValidationError, match="`theorem` derives `radius` too"):
        PerturbedGD(theorem=theorem, radius=0.1)


def test_noise_is_that_of_the_step_whichever_trials_are_there_and_wherever_one_begins() -> None:
    here = torch.tensor([0, 1, 4])
    many, few = Noise(7, lambda: torch.arange(6)), Noise(7, lambda: here)
    for step in (0, 1, 40, 2000, 2001):
        many.begin(step)
        few.begin(step)
        first, second = many.normal(5), few.normal(5)
        assert torch.equal(first[here], second)
        assert not torch.equal(first, many.normal(5)), "new numbers at the second call of a step"
    alone = Noise(7)
    alone.begin(2001)
    assert torch.equal(alone.normal(5), first[0])
