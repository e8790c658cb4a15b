"""Searches for critical points: what they converge to is known on surfaces, and what they cannot is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
import torch

from lossgeo.components.catalog import catalog
from lossgeo.components.finding import find
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.surface_module import SurfaceLoss, SurfaceModule, surface_data
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces.himmelblau import Himmelblau
from lossgeo.landscapes.surfaces.linear_autoencoder import LinearAutoencoder
from lossgeo.probes.critical_point_search import CriticalPointSearch
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.critical import Critical
from lossgeo.saddles.refiners import Refiner
from tests.support.program import trained
from tests.support.spectra import hessian_of
from tests.support.surfaces import landscape_over

REFINERS = list(catalog(Refiner))
every_refiner = pytest.mark.parametrize("name", REFINERS)


def gradient_of(value: Any) -> Any:
    return torch.func.grad(value)


def test_the_refiners_are_all_here() -> None:
    assert REFINERS == ["gradient_norm", "levenberg_marquardt", "newton_mr"]


@every_refiner
def test_a_search_near_a_critical_point_of_any_index_finds_it(name: str) -> None:
    surface, stream = Himmelblau(), torch.Generator().manual_seed(0)
    for point in surface.critical_points():
        start = point.theta + 0.05 * torch.randn(2, generator=stream, dtype=torch.float64)
        found = find(Refiner, name)().search(
            gradient_of(surface.value), lambda theta: hessian_of(surface.value, theta), start, 1e-9
        )
        assert float(torch.linalg.vector_norm(found.theta - point.theta)) < 1e-8
        assert float(torch.linalg.vector_norm(gradient_of(surface.value)(found.theta))) <= 1e-9


@every_refiner
def test_a_search_ends_near_a_gradient_flat_point(name: str) -> None:
    """f = x^3 / 3 + x + y^2 / 2 has no critical point; |g| is least at 0, where H g = 0 and g = (1, 0).

    Newton's steps (1 + x^2) / 2x grow as x falls, so that a search by them stalls before 0, where no length of step
    gains enough: |g| = 1 + x^2 and |H g| = 2x (1 + x^2) there, for x up to 0.15 below the bounds that are asked for.
    """

    def value(theta: torch.Tensor) -> torch.Tensor:
        return theta[0] ** 3 / 3 + theta[0] + theta[1] ** 2 / 2

    start = torch.tensor([0.7, 0.3], dtype=torch.float64)
    found = find(Refiner, name)(iterations=200).search(
        gradient_of(value), lambda theta: hessian_of(value, theta), start, 1e-9
    )
    g = gradient_of(value)(found.theta)
    assert float(torch.linalg.vector_norm(g)) == pytest.approx(1.0, abs=0.2)
    assert float(torch.linalg.vector_norm(hessian_of(value, found.theta) @ g)) < 0.3


@final
class Ramp(Surface):
    """x^3 / 3 + x + y^2 / 2: no critical point, and a gradient-flat one at 0."""

    @property
    def size(self) -> int:
        return 2

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        x, y = theta[..., 0], theta[..., 1]
        return x * x * x / 3 + x + y * y / 2

    def start(self, generator: torch.Generator) -> torch.Tensor:
        return torch.tensor([0.7, 0.3], dtype=torch.float64)


def test_the_probe_tells_a_gradient_flat_point_from_a_critical_one() -> None:
    ramp = Ramp()
    begin, data = ramp.start(torch.Generator()), surface_data(ramp)
    module = SurfaceModule(ramp, begin.clone())
    landscape = Landscape(module, SurfaceLoss(), data.task, data.train, data.test, torch.float64)
    probe = CriticalPointSearch(refine=find(Refiner, "gradient_norm")())
    (row,) = probe.run(landscape, Point(0, begin, {}), {}, 0).rows
    assert (row["accepted"], row["flat"], row["kind"]) == (False, True, "not critical")
    assert row["gradient_norm"] == pytest.approx(1.0, abs=1e-4)


def test_every_critical_point_that_is_found_of_an_autoencoder_has_its_loss_and_index() -> None:
    """Loss 1/2 of the left-out variances and the index of the formula, from random starts (Baldi & Hornik 1989)."""
    surface = LinearAutoencoder(inputs=4, hidden=2, covariance=(4.0, 3.0, 2.0, 1.0), rotation=1)
    known = {(round(p.loss, 6), p.index, p.zeros) for p in surface.critical_points()}
    probe = CriticalPointSearch(refine=find(Refiner, "levenberg_marquardt")(), starts=40, noise=(0.7, 0.7))
    landscape = landscape_over(surface)
    origin = Point(0, torch.zeros(surface.size, dtype=torch.float64), {})
    rows = probe.run(landscape, origin, {}, 0).rows
    assert len(rows) == 40
    found = [row for row in rows if row["accepted"]]
    assert len(found) >= 20
    assert {(round(row["loss"], 6), int(row["index"]), int(row["zero"])) for row in found} <= known
    assert len({row["index"] for row in found}) >= 4
    losses, indices = (np.array([row[key] for row in found], dtype=float) for key in ("loss", "index"))
    assert np.corrcoef(losses, indices)[0, 1] > 0.9


def test_probe_and_report_on_trajectories(tmp_path: Path) -> None:
    surface = {"name": "linear_autoencoder", "inputs": 4, "hidden": 2, "covariance": [4.0, 3.0, 2.0, 1.0]}
    search = {"name": "critical_point_search", "refine": "levenberg_marquardt", "starts": 3, "noise": [0.01, 1.0]}
    base = {"name": "x", "surface": surface, "optimizer": {"name": "sgd", "lr": 0.05}, "threads": 1}
    run = trained(tmp_path, base=base, replicas=5, steps=200, probes=[{**search, "at": [0, 100]}])
    table = pd.read_parquet(run.folder / "critical_points.parquet")
    assert len(table) == 5 * 3 * 2
    assert table["failure"].isna().all()
    assert table["noise"].between(0.01, 1.0).all()
    assert table["noise"].nunique() == 30
    summary = Critical().render(Study.open([tmp_path]))
    (row,) = summary.rows
    assert row["searches"] == 30
    assert row["accepted_share"] == pytest.approx(table["accepted"].mean())
    assert row["found"] == table["accepted"].sum()
    # the points are families, of which there are 1 + 4 + 6; the best of them is a valley, the others are saddles
    assert row["points"] == row["saddle"] + row["degenerate"] <= 11
    assert row["degenerate"] <= 1
    accepted = table[table["accepted"]]
    assert row["points"] >= accepted.groupby([accepted["loss"].round(6), "index"]).ngroups
    assert summary.draw is not None
    assert summary.draw().axes
