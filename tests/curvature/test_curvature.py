"""What a landscape gives at any chunk size and in any mode, and what stands in the rows of the probes of curvature."""

from __future__ import annotations

import copy
import os
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossgeo import CurvatureProbe
from lossgeo.components.finding import find, names
from lossgeo.curvature.graphs import graph_bytes
from lossgeo.curvature.memory import free_memory
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.preconditioned import Preconditioned
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.optimizers.adam import Adam
from lossgeo.probes import Measurement, Probe
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from tests.support.dense import Dense
from tests.support.networks import (
    CLASSES,
    LOSSES,
    N,
    Slower,
    apart,
    data,
    here,
    landscape_around,
    landscape_of,
    noisy,
)
from tests.support.steps import batch_loss

# --- landscapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet", "transformer"])
def test_any_chunk_size_gives_the_same_loss_and_gradient(network: str, loss: str) -> None:
    whole = landscape_of(network, loss, chunk=N)
    evaluation = whole.evaluate(whole.start(), whole.train)
    gradient = whole.mean_gradient(whole.start(), whole.train)
    dense = Dense(whole)
    assert evaluation.loss == pytest.approx(float(dense.loss(dense.theta)), rel=1e-13)
    for chunk in (1, 2, 10, 36):
        ragged = landscape_of(network, loss, chunk=chunk)
        assert ragged.evaluate(ragged.start(), ragged.train).loss == pytest.approx(evaluation.loss, rel=1e-13)
        assert ragged.evaluate(ragged.start(), ragged.train).accuracy == evaluation.accuracy
        assert apart(ragged.mean_gradient(ragged.start(), ragged.train), gradient) <= 1e-12


def test_dropout_is_off_in_measurements_and_follows_the_given_stream_in_training() -> None:
    landscape = noisy()
    landscape.module.train()
    theta = landscape.start()
    values = {landscape.evaluate(theta, landscape.train).loss for _ in range(3)}
    assert len(values) == 1
    before = torch.random.get_rng_state()
    batch = landscape.train.rows(slice(0, 8))
    first, again, other = (landscape.gradient(theta, batch, masks)[1].clone() for masks in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_asking_about_another_theta_moves_neither() -> None:
    landscape = landscape_of("mlp")
    mine, other = landscape.start(), landscape.start() + 0.1
    here = landscape.evaluate(mine, landscape.train)
    there = landscape.evaluate(other, landscape.train)
    assert here != there
    assert torch.equal(mine, landscape.start())
    assert torch.equal(other, landscape.start() + 0.1)
    mine.add_(0.1)  # in place, as an optimizer does: the landscape sees it without being told
    assert landscape.evaluate(mine, landscape.train) == there


def test_batch_statistics_are_those_of_the_whole_set_and_move_nothing() -> None:
    landscape = landscape_of("resnet", chunk=5)
    before = landscape.flat.buffers()
    theta = landscape.start()
    whole = landscape.outputs(theta, landscape.train.inputs, "batch")
    reference = copy.deepcopy(landscape.module).train()
    with torch.no_grad():
        assert torch.equal(whole, reference(landscape.train.inputs))
    assert all(torch.equal(b, before[n]) for n, b in landscape.flat.buffers().items())
    assert not torch.allclose(whole, landscape.outputs(theta, landscape.train.inputs, "eval"))


def test_a_batch_that_the_model_cannot_train_on_is_refused_before_training() -> None:
    landscape = noisy()
    before, state = landscape.flat.buffers(), torch.random.get_rng_state()
    with pytest.raises(UsageError, match=r"cannot train on a batch of 1.*change batch_size"):
        landscape.flat.rehearse(landscape.train.inputs[:1])  # a batch norm has no variance of one example
    effects = landscape.flat.rehearse(landscape.train.inputs[:2])
    assert effects == landscape.side_effects
    assert effects.rng
    assert effects.buffers
    assert all(torch.equal(b, before[n]) for n, b in landscape.flat.buffers().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    other = landscape_of("mlp")
    assert other.flat.rehearse(other.train.inputs[:1]) == (False, ())


def test_a_model_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"returns \(2, 3\).*wants \(2, 4\)"):
        landscape_around(nn.Linear(6, 3), data((6,)))


def test_the_memory_of_a_graph_grows_with_the_examples_behind_it() -> None:
    sizes = {}
    for n in (8, 16):
        landscape = landscape_of("mlp", chunk=n)
        near = here(landscape)
        piece, _ = next(near.pieces())
        loss = near.loss.mean(near.outputs(piece.inputs), piece.targets)
        sizes[n] = graph_bytes(list(near.derivatives((loss,), graph=True)))
    # inputs, two hidden layers and the outputs in float64 are the least that a graph over n examples can hold
    least = 8 * (6 + 7 + 5 + CLASSES)
    assert sizes[8] >= 8 * least
    assert sizes[16] - sizes[8] >= 8 * least


def test_free_memory_is_what_the_machine_says() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) <= total


# --- probes ----------------------------------------------------------------------------------------------------------


def measure(probe: Probe, landscape: Landscape, point: Point | None = None, seed: int = 0) -> Measurement:
    return probe.run(landscape, point or Point(7, landscape.start(), {}, Slower()), {}, seed)


def values(found: Measurement) -> list[dict[str, Any]]:
    """The rows without what they cost."""
    cost = ("seconds", "gradient_seconds", "matvecs")
    return [{key: value for key, value in row.items() if key not in cost} for row in found.rows]


def same(first: Measurement, second: Measurement) -> bool:
    return repr(values(first)) == repr(values(second))


def spectrum_of(landscape: Landscape) -> np.ndarray:
    return np.linalg.eigvalsh(Dense(landscape).hessian.numpy())


def test_eigenvalue_rows_carry_ranks_errors_and_cost() -> None:
    landscape = landscape_of("mlp", chunk=10)
    reference = spectrum_of(landscape)
    rows = measure(Eigenvalues(top=3, bottom=2, tolerance=1e-8), landscape).rows
    assert [(r["end"], r["rank"], r["step"]) for r in rows] == [
        *(("top", k, 7) for k in range(3)),
        *(("bottom", k, 7) for k in range(2)),
    ]
    expected = [*reference[::-1][:3], *reference[:2]]
    for row, value in zip(rows, expected, strict=True):
        assert row["converged"]
        assert abs(row["eigenvalue"] - value) <= row["residual"] + 1e-12
        assert 0 <= row["bound"] <= row["residual"]
        assert row["gradient_seconds"] > 0
    assert len({row["matvecs"] for row in rows}) == 1
    assert 5 <= rows[0]["matvecs"] <= landscape.size


# those that measure an operator; the others have tests of their own
OF_OPERATORS = [name for name in names(Probe) if issubclass(find(Probe, name), CurvatureProbe)]
# what kind of point it is only the Hessian says
OF_THE_HESSIAN = {"critical_points", "critical_point_search"}


def test_the_probes_of_operators_are_found() -> None:
    assert OF_OPERATORS == ["critical_point_search", "critical_points", "density", "eigenvalues", "trace"]


@pytest.mark.parametrize("name", OF_OPERATORS)
def test_every_row_says_what_was_measured(name: str) -> None:
    landscape = landscape_of("resnet", chunk=10)
    operator = Hessian() if name in OF_THE_HESSIAN else GaussNewton()
    probe = find(Probe, name)(samples=20, batch_norm="batch", parameters="*.weight", operator=operator)
    columns = {column.name for column in probe.table()}
    weights = sum(p.numel() for n, p in landscape.module.named_parameters() if n.endswith("weight"))
    for row in measure(probe, landscape).rows:
        assert set(row) <= columns | {"step", "replica"}
        shared = {
            "operator": operator.component_name(),
            "parameters": "*.weight",
            "size": weights,
            "samples": 20,
            "batch_norm": "batch",
            "precision": "float64",
            "graph": "kept",
        }
        assert {key: row[key] for key in shared} == shared
        assert row["probe"].startswith(f"{name}-")
        assert row["seconds"] > 0


@pytest.mark.parametrize("operator", names(Operator))
@pytest.mark.parametrize("name", sorted(set(OF_OPERATORS) - OF_THE_HESSIAN))
def test_every_probe_takes_every_operator(name: str, operator: str) -> None:
    landscape = landscape_of("mlp", chunk=10)
    small = {"steps": 10, "vectors": 2} if name == "density" else {}
    for samples in ("all", 24):
        found = measure(find(Probe, name)(operator=find(Operator, operator)(), samples=samples, **small), landscape)
        assert [row["failure"] for row in found.rows if row.get("failure")] == []
        assert {row["operator"] for row in found.rows} == {operator}


@pytest.mark.parametrize("name", OF_OPERATORS)
def test_a_probe_depends_on_seed_and_step_and_not_on_other_probes(name: str) -> None:
    landscape = landscape_of("mlp")
    probe = find(Probe, name)(**({"exact": 0} if name in OF_THE_HESSIAN else {}))  # a whole spectrum draws nothing
    first, again, other, later = (
        measure(probe, landscape, Point(step, landscape.start(), {}), seed)
        for seed, step in ((0, 5), (0, 5), (1, 5), (0, 6))
    )
    assert same(first, again)
    for another in (other, later):
        assert not same(first, another)


PROBES: dict[str, Probe] = {
    "eigenvalues": Eigenvalues(top=3),
    "more eigenvalues": Eigenvalues(top=6, bottom=3, tolerance=1e-4),
    "trace": Trace(vectors=8, tolerance=0),
    "deflated trace": Trace(vectors=8, tolerance=0, deflate=3),
    "density": Density(steps=20, vectors=2, deflate=3),
    "warm eigenvalues": Eigenvalues(top=3, start="warm"),
}


@pytest.mark.parametrize("memory", ["auto", 1.6e-4], ids=["enough memory", "little memory"])
def test_what_a_probe_finds_is_not_a_matter_of_those_before_it(memory: str | float) -> None:
    landscape = landscape_of("cnn", chunk=10)
    probes = [probe.model_copy(update={"memory": memory}) for probe in PROBES.values()]
    alone = [measure(probe, landscape) for probe in probes]
    assert [row["failure"] for found in alone for row in found.rows if row.get("failure")] == []
    for order in (range(len(probes)), reversed(range(len(probes)))):
        point = Point(7, landscape.start(), {}, Slower())  # at which they share what they compute
        for i in order:
            assert same(measure(probes[i], landscape, point), alone[i]), list(PROBES)[i]


def test_layers_are_measured_one_by_one() -> None:
    landscape = landscape_of("cnn", chunk=10)
    dense = Dense(landscape)
    found = measure(Eigenvalues(per_layer=True, tolerance=1e-8, save_vectors=True), landscape)
    blocks: dict[str, list[str]] = {}
    for parameter in dense.shapes:
        blocks.setdefault(f"{parameter.rpartition('.')[0]}.*", []).append(parameter)
    assert list(dict.fromkeys(row["parameters"] for row in found.rows)) == list(blocks)
    for label, block in blocks.items():
        where = dense.positions(block)
        reference = np.linalg.eigvalsh(dense.hessian[where][:, where].numpy())
        top, bottom = (row for row in found.rows if row["parameters"] == label)
        assert top["size"] == len(where)
        assert top["eigenvalue"] == pytest.approx(reference[-1], rel=1e-8)
        assert bottom["eigenvalue"] == pytest.approx(reference[0], rel=1e-8, abs=1e-10)
        assert found.vectors[f"{label}:top"].shape == (1, len(where))
    one = measure(Eigenvalues(parameters=next(iter(blocks)), tolerance=1e-8), landscape).rows
    assert one[0]["eigenvalue"] == pytest.approx(found.rows[0]["eigenvalue"], rel=1e-8)


@pytest.mark.parametrize("name", OF_OPERATORS)
def test_parameters_that_do_not_exist_are_refused_before_training(name: str) -> None:
    with pytest.raises(UsageError, match="matches none of the model's parameters"):
        find(Probe, name)(parameters="layers.7.*").check(landscape_of("mlp"))


def test_samples_take_the_first_examples_of_the_split() -> None:
    landscape = landscape_of("mlp")
    rows = measure(Eigenvalues(samples=9, tolerance=1e-9), landscape).rows
    few = landscape_around(landscape.module, landscape.train.rows(slice(0, 9)))
    assert rows[0]["samples"] == 9
    assert rows[0]["eigenvalue"] == pytest.approx(spectrum_of(few)[-1], rel=1e-9)


def test_more_samples_than_examples_are_all_of_them() -> None:
    (row,) = measure(Trace(samples=N + 1, vectors=4), landscape_of("mlp")).rows
    assert row["samples"] == N
    assert row["data_stderr"] is None


def test_a_sample_gives_a_bracket_and_all_examples_give_none() -> None:
    landscape = landscape_of("mlp", n=400)
    reference = spectrum_of(landscape)
    rows = measure(Eigenvalues(top=2, bottom=1, samples=200), landscape).rows
    for row, value in zip(rows, [reference[-1], None, reference[0]], strict=True):
        if value is None:  # `brackets: 1` is for the first of each end
            assert row.get("low") is None
        else:
            assert row["low"] <= row["eigenvalue"] <= row["high"]
            assert row["low"] <= value <= row["high"]
    assert all(row.get("low") is None for row in measure(Eigenvalues(), landscape).rows)
    both = measure(Eigenvalues(top=2, bottom=0, samples=200, brackets=2), landscape).rows
    assert all(row["low"] < row["high"] for row in both)


@pytest.mark.parametrize(
    ("dtype", "settings", "precision"),
    [
        (torch.float32, {}, "float32"),
        (torch.float32, {"tolerance": 1e-6}, "float64"),
        (torch.float32, {"precision": "float64"}, "float64"),
        (torch.float64, {}, "float64"),
        (torch.float64, {"precision": "float32"}, "float32"),
        (torch.bfloat16, {}, "float32"),
    ],
)
def test_precision_is_that_of_the_parameters_unless_more_is_needed(
    dtype: torch.dtype, settings: dict[str, Any], precision: str
) -> None:
    rows = measure(Eigenvalues(**settings), landscape_of("resnet", chunk=10, dtype=dtype)).rows
    assert {row["precision"] for row in rows} == {precision}
    assert all(row["converged"] for row in rows)


def test_vectors_are_kept_where_they_are_asked_for() -> None:
    landscape = landscape_of("mlp")
    assert measure(Eigenvalues(), landscape).vectors == {}
    found = measure(Eigenvalues(top=2, bottom=1, tolerance=1e-8, save_vectors=True), landscape)
    H = Dense(landscape).hessian
    for end, count in (("top", 2), ("bottom", 1)):
        vectors = found.vectors[f"*:{end}"]
        assert vectors.shape == (count, landscape.size)
        rows = [row for row in found.rows if row["end"] == end]
        for row, v in zip(rows, vectors, strict=True):
            # the residual is the norm of just this
            assert float((H @ v - row["eigenvalue"] * v).norm()) <= row["residual"] * 1.01 + 1e-12


def test_a_failure_is_a_row_with_its_reason() -> None:
    landscape = landscape_of("mlp")
    nowhere = Point(3, landscape.start() * float("nan"), {})
    for name in names(Probe):
        broken = find(Probe, name)().run(landscape, nowhere, {"kept": torch.ones(1)}, 0)
        (failure,) = (row["failure"] for row in broken.rows)
        assert re.fullmatch(r"ArithmeticError: (a product with the operator|the gradient) is not finite", failure)
        assert broken.rows[0]["step"] == 3
        assert not {"eigenvalue", "value", "node"} & set(broken.rows[0])
        assert list(broken.memory) == ["kept"]
    unknown = Point(0, landscape.start(), Adam().init(batch_loss(landscape), landscape.start()), Adam())
    (row,) = measure(Eigenvalues(operator=Preconditioned()), landscape, unknown).rows
    assert "before the first step" in row["failure"]


def test_a_model_that_is_not_repeatable_fails_with_the_name_of_the_layer() -> None:
    class Dropping(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(inputs, 0.5)

    landscape = landscape_around(nn.Sequential(nn.Linear(6, 5), Dropping(), nn.Linear(5, CLASSES)), data((6,)))
    for name in names(Probe):
        (row,) = measure(find(Probe, name)(), landscape).rows
        assert "layer '1' (Dropping) gives two outputs for one input" in row["failure"]
