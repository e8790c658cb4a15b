"""The bracket of an extreme eigenvalue over a population, from a sample of it: random quadratic forms, known whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossgeo.curvature.spectral.bracket import bracket
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator
from lossgeo.landscapes.point import Point
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from tests.support.networks import landscape_of
from tests.support.spectra import stream

POPULATION, SIZE = 400, 20


def mean_of(rows: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, LinearOperator]:
    """The mean of w_i x_i x_i', as a matrix and as an operator that knows what each example adds."""
    n = len(rows)
    a = (rows.T * weights) @ rows / n

    def contributions(vectors: torch.Tensor) -> Contributions:
        return Contributions(weights * (vectors @ rows.T) ** 2 / n, torch.full((n,), 1 / n, dtype=torch.float64), n)

    return a, LinearOperator(SIZE, lambda v: a @ v, torch.float64, a.device, contributions)


def extreme(a: torch.Tensor, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(a)
    at = slice(-1, None) if sign > 0 else slice(0, 1)
    return values[at], vectors[:, at].T


def tried(samples: int, sign: int, trials: int, definite: bool) -> tuple[float, float]:
    """The share of brackets that hold the value over the population, and their median width over the value."""
    draws, held, widths = stream(samples), [], []
    scales = torch.linspace(1.6, 0.6, SIZE, dtype=torch.float64)
    for _ in range(trials):
        rows = scales * torch.randn(POPULATION, SIZE, generator=draws, dtype=torch.float64)
        weights = torch.ones(POPULATION, dtype=torch.float64)
        if not definite:
            weights = 0.3 + torch.randn(POPULATION, generator=draws, dtype=torch.float64)
        truth, _ = extreme(mean_of(rows, weights)[0], sign)
        a, whole = mean_of(rows[:samples], weights[:samples])
        value, vector = extreme(a, sign)
        parts = [mean_of(rows[part], weights[part]) for part in (slice(samples // 2), slice(samples // 2, samples))]
        of_halves = [extreme(half, sign)[1] for half, _ in parts]
        left = 1 - samples / POPULATION
        low, high = bracket(whole, [half for _, half in parts], value, vector, of_halves, sign, left)
        held.append(bool(low <= truth <= high))
        widths.append(float((high - low) / value.abs()))
    return float(np.mean(held)), float(np.median(widths))


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bracket_holds_the_population_whatever_is_left_of_it(sign: int, definite: bool) -> None:
    """It bounds two biases beside the error, so that it may hold more than 95%; 100 trials, two standard errors."""
    widths = []
    for samples in (10, 100, 300, 399):
        held, width = tried(samples, sign, 100, definite)
        assert held >= 0.9
        widths.append(width)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.3, "of 399 in 400 it was as wide as of 399 in infinity"


def test_of_the_whole_population_nothing_is_left_open() -> None:
    held, width = tried(POPULATION, 1, 3, True)
    assert held == 1
    assert width == 0


def test_few_examples_have_students_quantile_and_the_rest_of_the_population_counts() -> None:
    forms = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    found = Contributions(forms / 3, torch.full((3,), 1 / 3, dtype=torch.float64), 3)
    stderr = float(found.stderr()[0])
    assert stderr == pytest.approx(float(forms.std()) / 3**0.5)
    assert float(found.stderr(0.25)[0]) == pytest.approx(stderr / 2)
    assert float(found.aside()[0]) == pytest.approx(4.30 * stderr, rel=1e-3)
    many = Contributions(torch.rand(1, 5000, dtype=torch.float64), torch.full((5000,), 1 / 5000), 5000)
    assert float(many.aside(1.0, 2.0)[0] / many.stderr()[0]) == pytest.approx(2, rel=1e-3)


def test_a_sample_of_all_but_one_is_nearly_the_whole() -> None:
    """399 of 400 examples of a network: brackets were 42 and 106% wide."""
    landscape = landscape_of("mlp", n=400)
    point = Point(0, landscape.start(), {})
    asked = {"top": 1, "bottom": 1}
    whole = Eigenvalues(**asked, tolerance=1e-6).run(landscape, point, {}, 0).rows
    for row, known in zip(Eigenvalues(**asked, samples=399).run(landscape, point, {}, 0).rows, whole, strict=True):
        assert row["low"] <= known["eigenvalue"] <= row["high"]
        assert row["high"] - row["low"] < 0.1 * abs(row["eigenvalue"])
    half, most = (Trace(samples=n, vectors=200).run(landscape, point, {}, 0).rows[0] for n in (200, 399))
    assert most["data_stderr"] < 0.1 * half["data_stderr"]
