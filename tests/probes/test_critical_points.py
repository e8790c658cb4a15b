"""Points are told apart: the known ones of every surface, and estimates beside whole spectra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lossgeo.components.parsing import parse
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces.quadratic import Quadratic
from lossgeo.probes import Probe
from lossgeo.probes.critical_point_search import CriticalPointSearch
from lossgeo.probes.critical_points import CriticalPoints
from tests.support.critical import found
from tests.support.networks import landscape_of
from tests.support.surfaces import SURFACES, landscape_over


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_the_known_points_of_every_surface_are_recognized(surface: Surface) -> None:
    landscape = landscape_over(surface)
    for point in itertools.islice(surface.critical_points(), 20):
        row = found(landscape, point.theta)
        assert (row["index"], row["zero"]) == (point.index, point.zeros)
        assert row["negative"] + row["zero"] + row["positive"] == surface.size
        assert row["strict"] == (point.index > 0)
        assert row["degenerate"] == (point.zeros > 0)
        assert row["kind"] == point.kind
        assert row["loss"] == pytest.approx(point.loss, abs=1e-12 * max(1.0, abs(point.loss)))
        assert row["second_order"] == (row["lambda_min"] >= -((1e-5) ** 0.5))
        assert row["whole"]
        beyond = found(landscape, point.theta, exact=0)
        assert (beyond["kind"], beyond["whole"]) == (point.kind, False)
        assert beyond["index_low"] <= point.index <= beyond["index_high"]


def test_strict_and_degenerate_are_two_flags() -> None:
    """diag(1, -1, 0) is both."""
    row = found(landscape_over(Quadratic(spectrum=(1.0, -1.0, 0.0))), torch.zeros(3, dtype=torch.float64))
    assert row["strict"]
    assert row["degenerate"]
    assert row["kind"] == "saddle"


def test_a_point_with_a_gradient_is_not_critical_unless_it_is_allowed() -> None:
    landscape = landscape_over(Quadratic(spectrum=(1.0, -1.0)))
    theta = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    assert found(landscape, theta)["kind"] == "not critical"
    assert found(landscape, theta, gradient_tolerance=1e-2)["kind"] == "saddle"
    assert not found(landscape, theta, accuracy=1e-4)["second_order"]
    assert found(landscape, theta, accuracy=1e-2, hessian_lipschitz=200.0)["second_order"]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_estimates_hold_the_counts_of_the_whole_spectrum(name: str) -> None:
    landscape = landscape_of(name, dtype=torch.float64)
    theta = landscape.start()
    whole, estimated = found(landscape, theta, zero=1e-3), found(landscape, theta, zero=1e-3, exact=0)
    assert whole["whole"]
    assert not estimated["whole"]
    for sign in ("negative", "zero", "positive"):
        assert estimated[f"{sign}_low"] <= whole[sign] <= estimated[f"{sign}_high"]
        assert whole[f"{sign}_low"] == whole[sign] == whole[f"{sign}_high"]
    for end in ("lambda_min", "lambda_max"):
        scale = max(abs(whole["lambda_min"]), abs(whole["lambda_max"]))
        assert abs(estimated[end] - whole[end]) <= estimated[f"{end}_error"] + whole[f"{end}_error"] + 1e-12 * scale
    assert estimated["gradient_norm"] == whole["gradient_norm"]


def test_only_the_hessian_says_what_kind_of_point_it_is() -> None:
    with pytest.raises(ValidationError, match="gauss_newton does not say what kind of point it is"):
        CriticalPoints(operator=GaussNewton())


def test_a_search_asked_for_in_the_old_place_is_told_where_it_is_now() -> None:
    _, problems = parse(Probe, {"name": "critical_points", "refine": "newton_mr", "starts": 3})
    assert [(p.keys[-1], p.message) for p in problems] == [
        (key, "unknown key; searches are probe critical_point_search, which fills the same table")
        for key in ("refine", "starts")
    ]


def test_both_probes_fill_one_table_with_the_same_columns() -> None:
    assert CriticalPoints.table_name() == CriticalPointSearch.table_name() == "critical_points"
    assert CriticalPoints.table() == CriticalPointSearch.table()


# --- spectra of every kind -------------------------------------------------------------------------------------------


def random_spectrum(number: int) -> np.ndarray:
    """With copies, clusters, huge ends, zeros, of one sign alone, or none of these; of one to 60 eigenvalues."""
    draws = np.random.default_rng(number)
    size = int(draws.integers(1, 6)) if number % 3 == 0 else int(draws.integers(6, 61))
    values = draws.normal(size=size)
    match number % 8:
        case 0:
            values = draws.choice(values[:3], size)
        case 1:
            values = np.sign(values) * 2.0 + 1e-4 * draws.normal(size=size)
        case 2:
            values[0] = -1000.0
        case 3:
            values[draws.random(size) < 0.5] = 0.0
        case 4:
            values = np.abs(values) + 0.01
        case 5:
            values = -np.abs(values) - 0.01
        case 6:
            values = np.where(draws.random(size) < 0.5, 0.0, np.abs(values))
        case 7:
            values[: size // 2] = values[0]
    values[np.abs(values) < 1e-2 * (np.abs(values) > 0)] = 0.01  # nothing close to a cut
    return np.zeros(size) if number % 40 == 39 else values


@pytest.mark.parametrize("exact", [2500, 0])
def test_random_spectra_are_counted_and_named(exact: int) -> None:
    """200 of them. Whole spectra are counted right; beyond, an interval holds the truth in 95%, and what an end knows
    is exact: nothing below the smallest eigenvalue, nothing above the largest."""
    held, at_risk = 0, 0
    for number in range(200):
        spectrum = random_spectrum(number)
        surface = Quadratic(spectrum=tuple(spectrum), rotation=number)
        row = found(landscape_over(surface), torch.zeros(len(spectrum), dtype=torch.float64), exact=exact, steps=12)
        negative, zero, positive = (int(n.sum()) for n in (spectrum < 0, spectrum == 0, spectrum > 0))
        kinds = {"saddle": negative and positive, "degenerate": zero, "minimum": positive, "maximum": negative}
        assert row["kind"] == next(kind for kind, so in kinds.items() if so), number
        assert row["strict"] == (negative > 0), number
        near = (1e-12 if exact else 1e-3) * np.abs(spectrum).max()  # more than the clusters are wide
        assert row["lambda_min"] == pytest.approx(spectrum.min(), abs=near)
        assert row["lambda_max"] == pytest.approx(spectrum.max(), abs=near)
        for sign, truth in (("negative", negative), ("zero", zero), ("positive", positive), ("index", negative)):
            value, low, high = (row[f"{sign}{end}"] for end in ("", "_low", "_high"))
            assert low <= value <= high
            if exact or truth == 0 == high or truth == len(spectrum) == low:
                assert value == truth, number
            else:
                held, at_risk = held + (low <= truth <= high), at_risk + 1
        assert row["negative"] + row["zero"] + row["positive"] == pytest.approx(len(spectrum), rel=1e-12)
        if negative == 0 or positive == 0:  # an end says so
            assert row["negative_high" if negative == 0 else "positive_high"] == 0.0, number
        if zero == len(spectrum):
            assert (row["zero"], row["zero_low"], row["zero_high"]) == (zero,) * 3
    assert held >= 0.95 * at_risk if not exact else at_risk == 0
