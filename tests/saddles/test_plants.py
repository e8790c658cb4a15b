"""Planted points: critical, of the stated loss and index, and left when theory says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lossgeo.components.catalog import catalog
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.datasets.digits import Digits
from lossgeo.landscapes.datasets.linear_teacher import LinearTeacher
from lossgeo.landscapes.datasets.teacher_student import TeacherStudent
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models.deep_linear import DeepLinear
from lossgeo.landscapes.models.logistic import Logistic
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.randomness import generator
from lossgeo.recipes.documents import Document, RecipeError
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.building import landscape_and_data, watch_of
from lossgeo.runs.escapes import noise_along
from lossgeo.saddles.plants import Plant
from lossgeo.saddles.plants.duplicate_unit import DuplicateUnit
from lossgeo.saddles.plants.origin import Origin
from tests.support.networks import landscape_on
from tests.support.program import frame, last_theta, trained

ONE = TeacherStudent(dimension=4, width=8, examples=250, noise=0.3)
TWO = TeacherStudent(dimension=3, width=8, outputs=2, examples=250, noise=0.3)
WHITE = LinearTeacher(standardize=False, components=8)
NOISY = Digits(classes=3, components=2, train=120, label_noise=0.4)

# (plant, model, data, loss, how many points)
PLANTED: dict[str, tuple[Plant, Model, Dataset, Loss, int]] = {
    "one output": (DuplicateUnit(networks=3), MLP(hidden=(4,)), ONE, MSE(), 9),
    "uneven": (DuplicateUnit(networks=2, share=0.2), MLP(hidden=(4,)), ONE, MSE(), 6),
    "beyond one": (DuplicateUnit(networks=2, share=1.5), MLP(hidden=(4,)), ONE, MSE(), 6),
    "two outputs": (DuplicateUnit(networks=2, share=0.3), MLP(hidden=(3,)), TWO, MSE(), 4),
    "second layer": (DuplicateUnit(share=0.3, layer=1), MLP(hidden=(2, 3)), TWO, MSE(), 2),
    "first of two": (DuplicateUnit(layer=0), MLP(hidden=(3, 2), activation="sigmoid"), TWO, MSE(), 2),
    "classes": (DuplicateUnit(), MLP(hidden=(3,)), NOISY, CrossEntropy(), 2),
    "white": (Origin(), DeepLinear(depth=2, width=6), WHITE, MSE(), 3),
    "narrow": (Origin(), DeepLinear(depth=2, width=2), WHITE, MSE(), 2),
    "not white": (Origin(), DeepLinear(depth=2, width=4), LinearTeacher(dimension=5), MSE(), 3),
    "images": (Origin(), DeepLinear(depth=2, width=3), Digits(classes=3, train=200), MSE(), 2),
    "three layers": (Origin(), DeepLinear(depth=3, width=4), WHITE, MSE(), 1),
}


def test_every_plant_is_tried() -> None:
    assert {plant.component_name() for plant, *_ in PLANTED.values()} == set(catalog(Plant))


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_point_is_critical_with_the_stated_loss_and_index(name: str) -> None:
    plant, model, dataset, loss, count = PLANTED[name]
    landscape = landscape_on(model, dataset, loss)
    points = plant.points(model, dataset.load(), loss, seed=100)
    assert len(points) == count
    for point in points:
        there = LocalLoss(landscape, Point(0, point.theta, {}), landscape.train)
        assert float(there.gradient().norm()) < 1e-9
        assert landscape.evaluate(point.theta, landscape.train).loss == pytest.approx(point.loss, abs=1e-12)
        matrix = Hessian().at(there) @ torch.eye(landscape.size, dtype=torch.float64)
        spectrum = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        small = 1e-9 * float(spectrum.abs().max())
        assert int((spectrum < -small).sum()) == point.index
        assert int((spectrum.abs() <= small).sum()) == point.zeros


def test_the_way_out_of_a_flat_origin_leads_down() -> None:
    _, model, dataset, loss, _ = PLANTED["three layers"]
    landscape = landscape_on(model, dataset, loss)
    (point,) = Origin().points(model, dataset.load(), loss, seed=0)
    assert point.way_out is not None
    assert float(point.way_out.norm()) == pytest.approx(1.0)
    falls = [point.loss - landscape.evaluate(a * point.way_out, landscape.train).loss for a in (0.02, 0.04)]
    assert falls[0] > 0
    assert falls[1] / falls[0] == pytest.approx(2**3, rel=0.01)  # f = -c a^3


@pytest.mark.parametrize(
    ("plant", "model", "dataset", "loss", "said"),
    [
        (DuplicateUnit(), DeepLinear(), ONE, MSE(), "needs `model: mlp` with biases"),
        (DuplicateUnit(), MLP(hidden=(4,), bias=False), ONE, MSE(), "needs `model: mlp` with biases"),
        (DuplicateUnit(layer=1), MLP(hidden=(4,)), ONE, MSE(), "a hidden layer number 1"),
        (DuplicateUnit(), MLP(hidden=(1,)), ONE, MSE(), "needs two units or more"),
        (DuplicateUnit(), MLP(hidden=(400,)), ONE, MSE(), "its Hessian is for 1000 at the most"),
        (
            DuplicateUnit(),
            MLP(hidden=(3,)),
            Digits(classes=2, components=4),
            CrossEntropy(),
            "0 of 10 narrow networks reached",
        ),
        (Origin(), MLP(), WHITE, MSE(), "needs `model: deep_linear`"),
        (Origin(), DeepLinear(bias=True), WHITE, MSE(), "without biases"),
        (Origin(), Logistic(), WHITE, MSE(), "needs `model: deep_linear`"),
        (Origin(), DeepLinear(), Digits(), CrossEntropy(), "`loss: mse`"),
    ],
)
def test_what_does_not_fit_is_refused(plant: Plant, model: Model, dataset: Dataset, loss: Loss, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plant.points(model, dataset.load(), loss, seed=0)


# --- trials ----------------------------------------------------------------------------------------------------------

TWINS: dict[str, Any] = {
    "name": "twins",
    "model": {"name": "mlp", "hidden": [4]},
    "dataset": {"name": "teacher_student", "dimension": 4, "width": 8, "examples": 250, "noise": 0.3},
    "loss": "mse",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "start": {"plant": "duplicate_unit", "direction": "none"},
    "escape": {"distance": 0.1},
    "batch_size": 10,
    "replicas": 4,
    "steps": 300,
    "threads": 1,
}
LINEAR: dict[str, Any] = {
    "name": "linear",
    "model": {"name": "deep_linear", "depth": 2, "width": 8},
    "dataset": {"name": "linear_teacher", "components": 8, "standardize": False},
    "loss": "mse",
    "optimizer": {"name": "sgd", "lr": 0.01},
    "start": {"plant": "origin", "offset": 1e-3, "direction": "random"},
    "escape": {"loss_drop": 0.25, "saddles": "all"},
    "replicas": 20,
    "steps": 2000,
    "threads": 1,
}


def test_batches_leave_twins_alike_to_the_last_bit(tmp_path: Path) -> None:
    run = trained(tmp_path, base=TWINS)
    theta = last_theta(run)
    assert theta.dtype == torch.float64, "in float32 no planted point is critical"
    moved = theta - theta[0]
    assert float(moved[1:].abs().max()) > 1e-3, "noise moves them"
    incoming, biases, outgoing = theta[:, :16].view(-1, 4, 4), theta[:, 16:20], theta[:, 20:24]
    for part in (incoming, biases, outgoing):
        assert torch.equal(part[:, 0], part[:, 3])
    table = frame(run, "escapes")
    assert table["censored"].all()
    assert table["predicted_steps"].isna().all(), "there is no noise along the way out"


def test_a_kick_sets_twins_apart(tmp_path: Path) -> None:
    kicked = {"name": "perturbed_gd", "lr": 0.1, "radius": 0.05, "gradient_threshold": 1e-3, "waiting": 100}
    table = frame(trained(tmp_path, base=TWINS, optimizer=kicked, batch_size="full", steps=5000), "escapes")
    assert not table["censored"].any()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_noise_along_the_ways_out_is_that_of_batches(share: float) -> None:
    """With a = 1/2 there is none; with any other the twins' gradients differ."""
    start = {"plant": {"name": "duplicate_unit", "share": share}, "direction": "none"}
    (resolved,) = resolve(Document({**TWINS, "start": start}, "test"))
    landscape, _ = landscape_and_data(resolved.recipe, "cpu")
    watch = watch_of(resolved.recipe, landscape)
    assert watch is not None
    (saddle,) = watch.saddles
    predicted = noise_along(landscape, saddle, 10)
    found = []
    for number in range(2000):
        rows = torch.randperm(landscape.train.size, generator=generator(number, "rows"))[:10]
        _, gradient = landscape.gradient(saddle.theta, landscape.train.rows(rows))
        found.append(saddle.directions @ gradient)
    measured = torch.stack(found).std(0)
    if share == 0.5:
        assert predicted.silent
        assert float(measured.max()) < 1e-14
    else:
        deviation = np.sqrt(np.diag(predicted.of_step(0) - predicted.shared))
        assert np.abs(measured.numpy() / deviation - 1).max() < 4 / (2 * 2000) ** 0.5
        assert predicted.sizes == (10,) * 20


def test_each_trial_begins_at_a_point_of_its_own(tmp_path: Path) -> None:
    start = {"plant": {"name": "duplicate_unit", "networks": 2}, "index": "each"}
    probes = [{"name": "critical_points", "gradient_tolerance": 1e-9, "zero": 1e-9, "at": ["first"]}]
    run = trained(tmp_path, base=TWINS, start=start, escape=None, replicas=6, steps=1, probes=probes)
    table = frame(run, "critical_points")
    assert len(torch.unique(last_theta(run), dim=0)) == len(table) == 6
    assert table["expected_index"].notna().all()
    assert (table["index"] == table["expected_index"]).all()
    assert (table["expected_loss"] - table["loss"]).abs().max() < 1e-9


def test_a_linear_network_stays_at_each_saddle_as_long_as_saxe_says(tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=LINEAR), "escapes")
    assert table.groupby("saddle").size().to_dict() == {0: 20, 1: 20, 2: 20}
    assert not table["censored"].any()
    stayed = table["escape_step"] - table["start_step"]
    assert (stayed / table["predicted_steps"]).groupby(table["saddle"]).median().sub(1).abs().max() < 0.03
    assert (stayed - table["predicted_steps"]).abs().max() < 0.1 * stayed.max()
    assert stayed.groupby(table["saddle"]).median().is_monotonic_increasing


@pytest.mark.parametrize("schedule", [{"name": "constant", "warmup": 400}, {"name": "cosine", "final": 0.5}], ids=str)
def test_saxes_times_follow_the_schedule(schedule: dict[str, Any], tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=LINEAR, schedule=schedule), "escapes")
    assert not table["censored"].any()
    stayed = table["escape_step"] - table["start_step"]
    assert (stayed / table["predicted_steps"]).groupby(table["saddle"]).median().sub(1).abs().max() < 0.03


@pytest.mark.parametrize(("changed", "known"), [({"components": None}, 1), ({"components": 8}, 3)])
def test_later_saddles_have_times_on_white_inputs_alone(changed: dict[str, Any], known: int, tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=LINEAR, dataset={**LINEAR["dataset"], **changed}, replicas=3), "escapes")
    assert table[table["predicted_steps"].notna()]["saddle"].nunique() == known
    first = table[table["saddle"] == 0]
    assert (first["escape_step"] / first["predicted_steps"] - 1).abs().max() < 0.1


@pytest.mark.parametrize("depth", [3, 4])
def test_a_deeper_origin_is_left_by_a_power_law(depth: int, tmp_path: Path) -> None:
    start = {"plant": "origin", "offset": 0.05 * depth}
    model = {**LINEAR["model"], "depth": depth}
    changes = {"model": model, "start": start, "escape": {"distance": 0.3}, "optimizer": {"name": "sgd", "lr": 0.001}}
    table = frame(trained(tmp_path, base=LINEAR, **changes, replicas=2, steps=100_000), "escapes")
    assert not table["censored"].any()
    assert table["escape_step"].max() > 100
    assert (table["escape_step"] / table["predicted_steps"] - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (TWINS, {"start": {"plant": "duplicate_unit", "index": 3}}, "has 3 saddles, counted from 0; there is no 3"),
        (TWINS, {"start": {"plant": "duplicate_unit", "index": "each"}}, "give start.index a number"),
    ],
)
def test_wrong_numbers_are_refused(base: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        trained(tmp_path, base=base, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": {"at": "saddle"}}, "`start.at` needs a `surface`"),
        ({"start": {"plant": "origin", "at": "saddle"}}, "give `at: saddle` on a surface, or `plant` with a network"),
        ({"start": {}}, "give `at: saddle` on a surface, or `plant` with a network"),
        ({"start": None}, "`escape` needs a `surface`, whose saddles are known, or `start.plant`"),
        ({"escape": {"loss_drop": 0.1}}, "needs the whole loss at every step"),
        ({"start": {"plant": {"name": "duplicate_unit", "share": 1.0}}}, "one twin has no outgoing weights"),
        ({"start": {"plant": "duplicate_unit", "index": "all"}}, "start.index"),
        (
            {"surface": "octopus", "model": None, "dataset": None, "loss": None},
            "a surface knows its saddles: use `start: {at: saddle}`",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(changes: dict[str, Any], said: str) -> None:
    plain = {key: value for key, value in {**TWINS, **changes}.items() if value is not None}
    with pytest.raises(RecipeError) as refused:
        resolve(Document(plain, "test"))
    assert said in str(refused.value)


# --- ways down -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "index"), [(64, 192), (200, 600)])
def test_the_ways_down_of_a_large_origin_are_those_of_negative_curvature(width: int, index: int) -> None:
    """width x 3 modes, each eigenvalue `width`-fold: all of them below zero, and theory predicts the time."""
    start = {"plant": "origin", "offset": 1e-3, "direction": "negative"}
    document = {**LINEAR, "model": {**LINEAR["model"], "width": width}, "start": start, "replicas": 2}
    (resolved,) = resolve(Document({**document, "escape": {"loss_drop": 0.25}}, "test"))
    landscape, _ = landscape_and_data(resolved.recipe, "cpu")
    watch = watch_of(resolved.recipe, landscape)
    assert watch is not None
    (saddle,) = watch.saddles
    assert landscape.size > 512
    assert len(saddle.eigenvalues) == len(saddle.directions) == index
    modes = saddle.eigenvalues.view(3, width)
    assert float((modes - modes.mean(1, keepdim=True)).abs().max()) < 1e-10
    assert float(modes.max()) < -0.1
    operator = Hessian().at(LocalLoss(landscape, Point(0, saddle.theta, {}), landscape.train))
    products = torch.stack([operator @ way for way in saddle.directions[:: index // 6]])
    expected = saddle.eigenvalues[:: index // 6, None] * saddle.directions[:: index // 6]
    assert float((products - expected).abs().max()) < 1e-9
    gram = saddle.directions @ saddle.directions.T
    assert torch.allclose(gram, torch.eye(index, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_trial_at_a_large_origin_is_predicted(tmp_path: Path) -> None:
    start = {"plant": "origin", "offset": 1e-3, "direction": "negative"}
    model = {**LINEAR["model"], "width": 64}
    changes = {"model": model, "start": start, "escape": {"distance": 0.3}, "replicas": 2}
    table = frame(trained(tmp_path, base=LINEAR, **changes), "escapes")
    assert not table["censored"].any()
    assert (table["escape_step"] / table["predicted_steps"] - 1).abs().max() < 0.05


SPLIT: dict[str, Any] = {
    "name": "split",
    "surface": {"name": "strict_saddle", "spectrum": [1.0, -1.0, -0.5]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "start": {"at": "saddle", "offset": 1e-3},
    "escape": {"distance": 0.3, "saddles": "all"},
    "replicas": 4,
    "steps": 300,
    "threads": 1,
}


@pytest.mark.parametrize("which", ["all", "last"])
@pytest.mark.parametrize("base", [SPLIT, {**SPLIT, "surface": "himmelblau"}, {**TWINS, "replicas": 3}], ids=repr)
def test_saddles_that_no_order_joins_are_not_watched_in_turn(base: dict[str, Any], which: str, tmp_path: Path) -> None:
    escape = {"distance": 0.1, "saddles": which}
    with pytest.raises(UsageError, match=f"escape.saddles: {which} needs saddles that trials meet one after the other"):
        trained(tmp_path, base=base, escape=escape)


@pytest.mark.parametrize(
    "surface", [{"name": "strict_saddle", "spectrum": [2.0, -1.0]}, "quartic_saddle", "monkey_saddle"], ids=repr
)
def test_one_saddle_is_all_there_are(surface: Any, tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=SPLIT, surface=surface), "escapes")
    assert (table["saddle"] == 0).all()
    assert (table["start_step"] == 0).all()


@pytest.mark.parametrize("distance", [0.2, 0.5, 2.0])
def test_a_saddle_of_the_octopus_is_left_after_the_one_before(distance: float, tmp_path: Path) -> None:
    """Where coordinates begin beyond the distance, trials are not yet beyond saddles that they have not come to."""
    base = {**SPLIT, "surface": {"name": "octopus", "dimension": 5}, "start": None, "replicas": 20, "steps": 600}
    base = {key: value for key, value in base.items() if value is not None}
    tables = {
        which: frame(
            trained(tmp_path / which, base=base, escape={"distance": distance, "saddles": which}), "escapes"
        ).set_index("replica")
        for which in ("all", "last")
    }
    left = tables["all"].dropna(subset="escape_step")
    assert (left["escape_step"] >= left["start_step"]).all()
    assert left["saddle"].nunique() == 5
    ends = left[left["saddle"] == 4]["escape_step"]
    assert (ends >= left.groupby("replica")["escape_step"].max().reindex(ends.index)).all()
    assert tables["last"]["escape_step"].dropna().to_dict() == ends.to_dict()
