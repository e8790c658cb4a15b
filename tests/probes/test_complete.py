"""Copies of eigenvalues through the probe: where a layer, a loss or a kernel makes them certain, the list has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.tables import Row
from tests.support.dense import Dense
from tests.support.networks import CLASSES, landscape_of


def measured(probe: Eigenvalues | Trace, landscape: Landscape) -> list[Row]:
    rows = probe.run(landscape, Point(7, landscape.start(), {}), {}, 0).rows
    assert [row["failure"] for row in rows if row.get("failure")] == []
    return rows


def of(rows: list[Row], end: str, column: str = "eigenvalue") -> list[float]:
    return [row[column] for row in rows if row["end"] == end]


@pytest.mark.parametrize("per_layer", [True, False])
def test_under_mse_every_eigenvalue_of_the_last_layer_is_as_often_there_as_there_are_outputs(per_layer: bool) -> None:
    landscape = landscape_of("mlp", "mse", chunk=10)
    last = [name for name, _ in landscape.module.named_parameters()][-1].rpartition(".")[0] + ".*"
    asked = {"per_layer": True} if per_layer else {"parameters": last}
    rows = [r for r in measured(Eigenvalues(top=2 * CLASSES, bottom=0, **asked), landscape) if r["parameters"] == last]
    block = Dense(landscape).positions([n for n, _ in landscape.module.named_parameters() if n.startswith(last[:-1])])
    truth = torch.linalg.eigvalsh(Dense(landscape).hessian[block][:, block]).flip(0)[: 2 * CLASSES].numpy()
    assert truth[:CLASSES] == pytest.approx(truth[0], rel=1e-10)  # as often
    assert of(rows, "top") == pytest.approx(truth, rel=1e-3)
    assert all(of(rows, "top", "complete"))
    assert all(of(rows, "top", "converged"))
    without = measured(Eigenvalues(top=2 * CLASSES, bottom=0, parameters=last, complete=False), landscape)
    assert not any(of(without, "top", "complete"))


@pytest.mark.parametrize("operator", [GaussNewton(), Fisher(), Fisher(draws=2), GradientCovariance(), NTK()], ids=str)
def test_a_kernel_is_as_often_there_as_is_asked_for(operator: Operator) -> None:
    landscape = landscape_of("mlp", n=8 if operator.of_parameters else 60)
    rows = measured(Eigenvalues(operator=operator, top=1, bottom=3), landscape)
    assert all(abs(row["eigenvalue"]) <= row["bound"] for row in rows if row["end"] == "bottom")
    assert all(of(rows, "bottom", "complete"))
    assert all(of(rows, "bottom", "converged"))
    largest = of(rows, "top")[0]
    assert of(rows, "bottom", "relative_to") == pytest.approx([0.01 * largest] * 3, rel=1e-3)
    assert of(rows, "top", "relative_to") == pytest.approx([largest])


def test_an_extreme_value_alone_and_a_whole_hessian_take_no_product_more() -> None:
    landscape = landscape_of("mlp")
    for asked in ({"per_layer": True}, {"operator": GaussNewton()}, {"top": 5}):
        auto, off = (measured(Eigenvalues(complete=c, **asked), landscape) for c in ("auto", False))
        assert [row["matvecs"] for row in auto] == [row["matvecs"] for row in off]
        assert [row["eigenvalue"] for row in auto] == [row["eigenvalue"] for row in off]
    on = measured(Eigenvalues(top=5, complete=True), landscape)
    assert all(row["complete"] for row in on)
    assert on[0]["matvecs"] > measured(Eigenvalues(top=5), landscape)[0]["matvecs"]


@pytest.mark.parametrize(
    ("seed", "loss", "network"), [(100, "cross_entropy", "mlp"), (101, "mse", "mlp"), (102, "cross_entropy", "cnn")]
)
@pytest.mark.parametrize("operator", [Hessian(), GaussNewton(), GradientCovariance()], ids=lambda o: o.component_name())
def test_errors_in_float32_hold_what_float64_says(operator: Operator, seed: int, loss: str, network: str) -> None:
    # 2.4586246 with a bound of 3e-7, where it is 2.4586291
    landscape = landscape_of(network, loss, dtype=torch.float32)
    theta = landscape.start() + 0.1 * torch.randn(landscape.size, generator=torch.Generator().manual_seed(seed))
    asked = {"operator": operator, "top": 5, "bottom": int(operator == Hessian())}

    def at(**more: object) -> list[Row]:
        rows: list[Row] = Eigenvalues(**asked, **more).run(landscape, Point(7, theta, {}), {}, 0).rows
        return rows

    coarse, fine = at(tolerance=2e-5), at(tolerance=1e-10)
    assert all(row["converged"] for row in fine)
    assert {row["precision"] for row in coarse} == {"float32"}
    assert {row["precision"] for row in fine} == {"float64"}
    for row, truth in zip(coarse, fine, strict=True):
        assert abs(row["eigenvalue"] - truth["eigenvalue"]) <= row["bound"] <= row["residual"]
    trace, exact = (
        Trace(operator=operator, vectors=2 * landscape.size, tolerance=0.0, precision=p) for p in ("float32", "float64")
    )
    (row,), (truth,) = (p.run(landscape, Point(7, theta, {}), {}, 0).rows for p in (trace, exact))
    assert row["method"] == truth["method"] == "exact"
    assert row["low"] <= truth["value"] <= row["high"]
    assert row["high"] - row["low"] < 1e-3 * abs(truth["squares"]) ** 0.5


@pytest.mark.parametrize(("draws", "vectors"), [(2, 400), (2, 12), (10, 400)])
def test_the_interval_of_a_sampled_trace_holds_the_error_of_its_draws(draws: int, vectors: int) -> None:
    landscape = landscape_of("mlp", n=30)
    point = Point(7, landscape.start(), {})
    truth = float(Dense(landscape).fisher.trace())
    held, errors, stated = 0, [], []
    for seed in range(100):
        (row,) = (
            Trace(operator=Fisher(draws=draws, seed=seed), vectors=vectors, tolerance=0.0)
            .run(landscape, point, {}, seed)
            .rows
        )
        held += row["low"] <= truth <= row["high"]
        errors.append(row["value"] - truth)
        stated.append(np.hypot(row["stderr"], row["draws_stderr"]))
    assert held >= 88  # of 100 at 95%: fewer in 1 of 400
    assert np.std(errors) == pytest.approx(np.sqrt(np.mean(np.square(stated))), rel=0.3)
    (exact,) = Trace(operator=Fisher()).run(landscape, point, {}, 0).rows
    assert exact["draws_stderr"] is None
