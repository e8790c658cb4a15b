"""Points are told apart: the known ones of every surface, and estimates beside whole spectra."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lossgeo.components.parsing import parse
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces.quadratic import Quadratic
from lossgeo.probes import Probe
from lossgeo.probes.critical_point_search import CriticalPointSearch
from lossgeo.probes.critical_points import CriticalPoints
from lossgeo.tables import Row
from tests.support.networks import landscape_of
from tests.support.surfaces import SURFACES, landscape_over


def found(landscape: Landscape, theta: torch.Tensor, **options: Any) -> Row:
    measured = CriticalPoints(**options).run(landscape, Point(0, theta.clone(), {}), {}, 0)
    (row,) = measured.rows
    assert row.get("failure") is None, row["failure"]
    return row


@pytest.mark.parametrize("surface", SURFACES, ids=repr)
def test_the_known_points_of_every_surface_are_recognized(surface: Surface) -> None:
    landscape = landscape_over(surface)
    for point in itertools.islice(surface.critical_points(), 20):
        row = found(landscape, point.theta)
        assert (row["index"], row["zero"]) == (point.index, point.zeros)
        assert row["negative"] + row["zero"] + row["positive"] == surface.size
        assert row["strict"] == (point.index > 0)
        assert row["degenerate"] == (point.zeros > 0)
        kind = "minimum" if point.index == 0 else "maximum" if point.index == surface.size else "saddle"
        assert row["kind"] == kind
        assert row["loss"] == pytest.approx(point.loss, abs=1e-12 * max(1.0, abs(point.loss)))
        assert row["second_order"] == (row["lambda_min"] >= -((1e-5) ** 0.5))
        assert row["whole"]


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
