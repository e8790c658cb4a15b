"""What the curvature probes do with an operator: blocks, samples, sharing, memory, precision; and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.curvature.operators.preconditioned import Preconditioned
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.optimizers.adam import Adam
from lossgeo.probes import Probe
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.tables import Row
from tests.support.networks import landscape_of
from tests.support.program import lossgeo, rows, trained, written
from tests.support.steps import batch_loss


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return landscape_of("mlp", chunk=10)


LOSS = '''
from typing import ClassVar, final
from lossgeo import Loss

@final
class PlainSquare(Loss):
    """Half the square, without derivatives of its own."""
    accepts: ClassVar = ("values",)
    def prepare(self, targets, task, dtype): return targets.to(dtype)
    def mean(self, outputs, targets): return (outputs - targets).square().sum() / len(targets) / 2
    def weight(self, targets): return float(len(targets))
'''


def point(landscape: Landscape, step: int = 7) -> Point:
    return Point(step, landscape.start(), {})


def found(probe: Probe, landscape: Landscape, at: Point | None = None, memory: dict | None = None) -> list[Row]:
    rows = probe.run(landscape, at or point(landscape), memory or {}, 0).rows
    assert [row["failure"] for row in rows if row.get("failure")] == []
    return rows


def without_cost(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "matvecs", "gradient_seconds")} for row in rows]


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_a_glob_restricts_the_operator_and_is_named_in_the_row(landscape: Landscape) -> None:
    whole = found(Eigenvalues(tolerance=1e-8), landscape)
    first = found(Eigenvalues(parameters="0.*", tolerance=1e-8), landscape)
    assert {(row["parameters"], row["size"]) for row in whole} == {("*", landscape.size)}
    assert {(row["parameters"], row["size"]) for row in first} == {("0.*", 6 * 7 + 7)}
    # Cauchy's interlacing: a principal block lies between the extremes of the whole
    assert whole[1]["eigenvalue"] <= first[1]["eigenvalue"] <= first[0]["eigenvalue"] <= whole[0]["eigenvalue"]


def test_per_layer_gives_the_rows_that_every_layer_gives_alone(landscape: Landscape) -> None:
    together = found(Eigenvalues(per_layer=True, tolerance=1e-8), landscape)
    assert [row["parameters"] for row in together[::2]] == ["0.*", "2.*", "4.*"]
    for label in ("0.*", "2.*", "4.*"):
        alone = found(Eigenvalues(parameters=label, tolerance=1e-8), landscape)
        mine = [row["eigenvalue"] for row in together if row["parameters"] == label]
        # the smallest is zero here, and an eigenvalue far below the largest is found relative to that
        assert mine == pytest.approx([row["eigenvalue"] for row in alone], rel=1e-8, abs=1e-8 * max(mine))
    assert sum(row["size"] for row in together[::2]) == landscape.size
    traces = found(Trace(per_layer=True, vectors=100, tolerance=0.0, operator=GaussNewton()), landscape)
    whole = found(Trace(vectors=100, tolerance=0.0, operator=GaussNewton()), landscape)[0]
    error = sum(row["stderr"] ** 2 for row in [*traces, whole]) ** 0.5
    assert sum(row["value"] for row in traces) == pytest.approx(whole["value"], abs=4 * error)


def test_a_glob_that_matches_nothing_ends_the_program_before_training(tmp_path: Path) -> None:
    path = written(tmp_path, probes=[{"name": "eigenvalues", "parameters": "layers.*"}])
    done = lossgeo("train", path, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "'layers.*' matches none of the model's parameters; it has 0.weight" in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/steps.parquet"))


# --- samples ---------------------------------------------------------------------------------------------------------


def test_all_examples_leave_no_error_over_examples(landscape: Landscape) -> None:
    for row in found(Eigenvalues(), landscape):
        assert row["low"] is row["high"] is None if "low" in row else True
    assert found(Trace(), landscape)[0]["data_stderr"] is None
    assert {row["part"] for row in found(Density(steps=10, vectors=2), landscape)} == {0}


def test_a_sample_brackets_both_ends_and_costs_more(landscape: Landscape) -> None:
    rows = found(Eigenvalues(top=2, bottom=2, samples=20), landscape)
    for row in rows:
        if row["rank"] == 0:
            assert row["low"] < row["eigenvalue"] < row["high"]
        else:
            assert row.get("low") is None
    every = found(Eigenvalues(top=2, bottom=2, samples=20, brackets=2), landscape)
    assert all(row["low"] < row["high"] for row in every)
    none = found(Eigenvalues(top=2, bottom=2, samples=20, data_error=False), landscape)
    assert all(row.get("low") is None for row in none)
    assert none[0]["matvecs"] < rows[0]["matvecs"] <= every[0]["matvecs"]
    assert [row["eigenvalue"] for row in none] == [row["eigenvalue"] for row in rows]


def test_auto_doubles_the_sample_until_the_bracket_is_narrow_enough() -> None:
    landscape = landscape_of("mlp", n=1200)
    wide = found(Eigenvalues(samples="auto", width=9.0), landscape)
    assert {row["samples"] for row in wide} == {256}
    width = 0.8 * (wide[0]["high"] - wide[0]["low"]) / wide[0]["eigenvalue"]
    narrow = found(Eigenvalues(samples="auto", width=width), landscape)
    assert {row["samples"] for row in narrow} <= {512, 1024}
    assert narrow[0]["high"] - narrow[0]["low"] <= width * narrow[0]["eigenvalue"]
    exact = found(Eigenvalues(samples="auto", width=1e-6), landscape)
    assert {row["samples"] for row in exact} == {1200}
    assert all(row.get("low") is None for row in exact)


def test_auto_needs_an_error_over_examples_to_go_by() -> None:
    with pytest.raises(ValidationError, match="set data_error: true"):
        Density(samples="auto", data_error=False)
    with pytest.raises(ValidationError, match="needs an operator on the parameters"):
        Trace(operator=NTK(), samples="auto")


@pytest.mark.parametrize("probe", [Eigenvalues(samples=1), Trace(samples=1), Density(samples=1, steps=5)])
def test_one_example_is_measured_and_its_error_is_not_known(probe: Probe, landscape: Landscape) -> None:
    rows = found(probe, landscape)
    assert {row["samples"] for row in rows} == {1}
    for row in rows:
        assert row.get("low") is None or not np.isfinite(row["low"])


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_probes_at_one_point_share_products_and_give_the_values_that_they_give_alone(landscape: Landscape) -> None:
    probes = [Eigenvalues(top=4), Density(steps=30, vectors=2, deflate=4), Trace(deflate=4, vectors=6)]
    alone = [found(probe, landscape) for probe in probes]
    at = point(landscape)
    together = [found(probe, landscape, at) for probe in probes]
    assert [without_cost(rows) for rows in together] == [without_cost(rows) for rows in alone]
    spent = [(a[0]["matvecs"], t[0]["matvecs"]) for a, t in zip(alone, together, strict=True)]
    assert spent[0][0] == spent[0][1]
    assert spent[1] == (60, 60 - spent[0][0])  # the first vector goes on from the eigenvalues' space
    assert spent[2][1] == 6 < spent[2][0]
    backwards = point(landscape)
    reverse = [found(probe, landscape, backwards) for probe in reversed(probes)]
    assert [without_cost(rows) for rows in reversed(reverse)] == [without_cost(rows) for rows in alone]


def test_other_settings_share_nothing(landscape: Landscape) -> None:
    at = point(landscape)
    first = found(Eigenvalues(), landscape, at)
    other = found(Eigenvalues(operator=GaussNewton()), landscape, at)
    assert without_cost(other) == without_cost(found(Eigenvalues(operator=GaussNewton()), landscape))
    assert first[0]["eigenvalue"] != other[0]["eigenvalue"]


# --- starts, vectors, precision, memory ------------------------------------------------------------------------------


def test_a_warm_start_takes_fewer_products_and_finds_the_same(landscape: Landscape) -> None:
    probe = Eigenvalues(start="warm", bottom=0, tolerance=1e-3)
    cold = probe.run(landscape, point(landscape), {}, 0)
    near = Point(8, landscape.start() + 1e-4, {})
    warm = probe.run(landscape, near, cold.memory, 0)
    assert warm.rows[0]["matvecs"] < cold.rows[0]["matvecs"]
    exact = found(Eigenvalues(bottom=0, tolerance=1e-9), landscape, Point(8, landscape.start() + 1e-4, {}))
    assert warm.rows[0]["eigenvalue"] == pytest.approx(exact[0]["eigenvalue"], rel=1e-3)
    assert {name: tensor.shape for name, tensor in cold.memory.items()} == {"*:whole": (landscape.size,)}


def test_eigenvectors_are_kept_where_asked_for(tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        probes=[{"name": "eigenvalues", "top": 3, "bottom": 2, "save_vectors": True, "at": [20]}],
    )
    (file,) = (run.folder / "eigenvectors").iterdir()
    (row, *_) = rows(run.folder, "eigenvalues")
    assert file.name == f"{row['probe']}-step-00000020.safetensors"
    kept = load_file(file)
    vectors = torch.cat([kept["*:top"], kept["*:bottom"]])
    assert vectors.shape == (5, row["size"])
    assert (vectors @ vectors.T - torch.eye(5)).abs().max() < 1e-5  # float32


def test_the_row_names_its_precision_and_a_fine_tolerance_asks_for_float64() -> None:
    landscape = landscape_of("mlp", dtype=torch.float32)
    assert found(Eigenvalues(), landscape)[0]["precision"] == "float32"
    fine = found(Eigenvalues(tolerance=1e-8), landscape)[0]
    assert fine["precision"] == "float64"
    assert fine["residual"] <= 1e-8 * fine["eigenvalue"]
    assert found(Trace(precision="float64"), landscape)[0]["precision"] == "float64"
    assert next(landscape.module.parameters()).dtype in (torch.float32, torch.float64)
    landscape.evaluate(landscape.start(), landscape.train)
    assert next(landscape.module.parameters()).dtype == torch.float32


def test_a_small_memory_rebuilds_graphs_and_restarts_without_changing_the_answer(landscape: Landscape) -> None:
    free = found(Eigenvalues(top=3, bottom=1, tolerance=1e-6), landscape)
    # room for the vectors of a restarted run, not for the graphs
    tight = found(Eigenvalues(top=3, bottom=1, tolerance=1e-6, memory=48e3 / 2**30), landscape)
    assert {row["graph"] for row in free} == {"kept"}
    assert all(row["graph"] != "kept" for row in tight)
    for a, b in zip(free, tight, strict=True):
        assert a["eigenvalue"] == pytest.approx(b["eigenvalue"], rel=2e-6)


# --- operators through probes ----------------------------------------------------------------------------------------


def test_a_sampled_fisher_carries_the_error_of_its_draws(landscape: Landscape) -> None:
    exact = found(Eigenvalues(operator=Fisher(), bottom=0), landscape)[0]
    sampled = found(Eigenvalues(operator=Fisher(draws=400), bottom=0), landscape)[0]
    assert exact.get("stderr") is None
    assert 0 < sampled["stderr"] < 0.1 * exact["eigenvalue"]
    assert sampled["eigenvalue"] == pytest.approx(exact["eigenvalue"], abs=5 * sampled["stderr"])


def test_the_covariance_of_gradients_and_the_ntk_have_rows_of_their_own(landscape: Landscape) -> None:
    (covariance,) = found(Trace(operator=GradientCovariance(), vectors=50, tolerance=0.0), landscape)
    assert covariance["operator"] == "gradient_covariance"
    (kernel,) = found(Eigenvalues(operator=NTK(), bottom=0), landscape)
    assert kernel["size"] == landscape.train.size * landscape.task.outputs


def test_adams_own_curvature_needs_a_step_first() -> None:
    landscape = landscape_of("mlp", loss="mse")
    optimizer = Adam(lr=0.01)
    theta = landscape.start()
    state = optimizer.init(batch_loss(landscape), theta)
    probe = Eigenvalues(operator=Preconditioned(), bottom=0)
    (row,) = probe.run(landscape, Point(0, theta, state, optimizer), {}, 0).rows
    assert "before the first step" in row["failure"]
    taken = optimizer.step(batch_loss(landscape), theta, state, 0.01)
    at = Point(1, taken.theta, taken.state, optimizer)
    (row,) = found(probe, landscape, at)
    dense = np.stack([column(landscape, at, i) for i in range(landscape.size)])
    scale = optimizer.preconditioner(taken.theta, taken.state).inverse_root(torch.ones_like(theta)).numpy()
    assert row["eigenvalue"] == pytest.approx(np.linalg.eigvalsh(scale[:, None] * dense * scale)[-1], rel=1e-3)


def column(landscape: Landscape, at: Point, number: int) -> np.ndarray:
    unit = torch.zeros(landscape.size, dtype=landscape.dtype)
    unit[number] = 1
    return (Hessian().at(LocalLoss(landscape, at, landscape.train)) @ unit).numpy()


@pytest.mark.parametrize("operator", [NTK(), FiniteDifference()], ids=lambda o: o.component_name())
def test_operators_without_kept_graphs_say_how_many_vectors_fit_too(landscape: Landscape, operator: Operator) -> None:
    found = operator.at(LocalLoss(landscape, point(landscape), landscape.train, memory=10**6))
    assert found.room is not None
    assert 0 < found.room * found.size * 8 <= 10**6


def test_a_kernel_has_no_preconditioner() -> None:
    with pytest.raises(ValueError, match="no map of the parameters"):
        Preconditioned(of=NTK())


def test_a_loss_that_cannot_draw_is_a_row_with_the_reason_and_no_end_of_training(tmp_path: Path) -> None:
    (tmp_path / "plain_square.py").write_text(LOSS)
    probe = {"name": "eigenvalues", "operator": {"name": "fisher", "draws": 4}, "at": [2]}
    run = trained(
        tmp_path, [tmp_path / "plain_square.py"], loss="plain_square", dataset="diabetes", steps=4, probes=[probe]
    )
    assert "does not say how to draw targets" in rows(run.folder, "eigenvalues")[0]["failure"]
