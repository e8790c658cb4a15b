"""`include_decay`: weight decay counts as loss in all that is measured, and training stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lossgeo.recipes.documents import Document, RecipeError
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.building import landscape_and_data
from tests.support.program import frame, last_theta, manifest, trained

GAMMA = 0.3
NET: dict[str, Any] = {
    "name": "decay",
    "model": {"name": "mlp", "hidden": [5]},
    "dataset": {"name": "digits", "classes": 3, "components": 4, "train": 60},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": GAMMA},
    "steps": 30,
    "dtype": "float64",
    "threads": 1,
    "stop": {"gradient_norm_below": 1e-30},
    "evaluate": {"every": 10},
    "log": {"every": 10},
    "probes": [
        {"name": "eigenvalues", "top": 2, "bottom": 2, "tolerance": 1e-9, "every": 10},
        {"name": "eigenvalues", "operator": "gauss_newton", "top": 2, "bottom": 0, "tolerance": 1e-9, "at": ["last"]},
        {"name": "eigenvalues", "operator": "finite_difference", "bottom": 0, "tolerance": 1e-6, "at": ["last"]},
        {"name": "eigenvalues", "operator": "fisher", "bottom": 0, "tolerance": 1e-9, "at": ["last"]},
        {"name": "eigenvalues", "samples": 30, "tolerance": 1e-9, "at": ["last"]},
        {"name": "critical_points", "at": ["last"]},
    ],
}


def twice(tmp_path: Path, **changes: Any) -> list[Any]:
    return [trained(tmp_path, base=NET | changes, include_decay=flag) for flag in (False, True)]


def test_training_is_the_same_and_losses_and_gradients_hold_the_decay(tmp_path: Path) -> None:
    plain, decayed = twice(tmp_path)
    assert plain.id != decayed.id
    theta = last_theta(plain)
    assert torch.equal(theta, last_theta(decayed))
    without, with_it = frame(plain, "evaluations"), frame(decayed, "evaluations")
    penalties = 0.5 * GAMMA * without["parameter_norm"] ** 2
    np.testing.assert_allclose(with_it["loss"], without["loss"] + penalties, rtol=1e-12)
    np.testing.assert_allclose(with_it["accuracy"], without["accuracy"])
    of_steps = [frame(run, "steps").set_index("step")["loss"] for run in (plain, decayed)]
    of_points = [table[table["split"] == "train"].set_index("step")["loss"] for table in (without, with_it)]
    for steps, points in zip(of_steps, of_points, strict=True):  # full batches: the same loss
        np.testing.assert_allclose(steps, points.loc[steps.index], rtol=1e-12)
    landscape, _ = landscape_and_data(plain.recipe, "cpu")
    gradient = landscape.mean_gradient(theta, landscape.train) + GAMMA * theta
    last = with_it[(with_it["step"] == 30) & (with_it["split"] == "train")]
    assert last["gradient_norm"].item() == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert frame(decayed, "steps")["gradient_norm"].iloc[0] == pytest.approx(
        float((landscape.mean_gradient(landscape.start(), landscape.train) + GAMMA * landscape.start()).norm()),
        rel=1e-10,
    )


def test_curvature_is_that_of_the_penalized_loss(tmp_path: Path) -> None:
    plain, decayed = (frame(run, "eigenvalues") for run in twice(tmp_path))
    shift = decayed["eigenvalue"] - plain["eigenvalue"]
    held = plain["operator"] != "fisher"
    assert held.sum() > 10
    np.testing.assert_allclose(shift[held], GAMMA, rtol=1e-4)
    np.testing.assert_allclose(shift[~held], 0.0, atol=1e-9)
    sampled = plain["low"].notna()
    for end in ("low", "high"):  # over examples nothing of the decay varies
        np.testing.assert_allclose(decayed[end][sampled] - plain[end][sampled], GAMMA, rtol=1e-4)


def test_critical_points_are_those_of_the_penalized_loss(tmp_path: Path) -> None:
    plain, decayed = (frame(run, "critical_points") for run in twice(tmp_path))
    np.testing.assert_allclose(decayed["lambda_min"] - plain["lambda_min"], GAMMA, rtol=1e-8)
    spectra = [np.array(table["spectrum"].item()) for table in (plain, decayed)]
    np.testing.assert_allclose(spectra[1], spectra[0] + GAMMA, rtol=1e-8)
    # after long training the penalized gradient vanishes, and that of the loss alone does not
    changes = {"steps": 3000, "probes": [{"name": "critical_points", "gradient_tolerance": 1e-6, "at": ["last"]}]}
    plain, decayed = (frame(run, "critical_points") for run in twice(tmp_path, **changes))
    assert (plain["kind"].item(), decayed["kind"].item()) == ("not critical", "minimum")


def test_stop_rules_go_by_the_penalized_loss(tmp_path: Path) -> None:
    changes = {"steps": 3000, "stop": {"gradient_norm_below": 1e-4}, "probes": []}
    ended = [manifest(run.folder)["step"] for run in twice(tmp_path, **changes)]
    assert ended[0] == 3000 > ended[1]


def test_thresholds_are_those_of_what_is_measured(tmp_path: Path) -> None:
    plain, decayed = (frame(run, "steps")["threshold"].iloc[0] for run in twice(tmp_path, probes=[]))
    assert (plain, decayed) == (pytest.approx(76 - GAMMA), pytest.approx(76))
    adam = {"optimizer": {"name": "adam", "lr": 0.01, "weight_decay": GAMMA}, "probes": []}
    plain, decayed = (frame(run, "steps")["threshold"].iloc[0] for run in twice(tmp_path, **adam))
    assert plain is None or np.isnan(plain)
    assert decayed == pytest.approx(3800)


def test_a_surface_holds_it_too(tmp_path: Path) -> None:
    surface = {"surface": {"name": "quadratic", "spectrum": [2.0, 0.5]}, "model": None, "dataset": None, "loss": None}
    probes = [{"name": "critical_points", "at": ["last"]}]
    run = trained(tmp_path, base=NET, **surface, include_decay=True, probes=probes, replicas=2)
    table = frame(run, "critical_points")
    assert [sorted(row) for row in table["spectrum"]] == [[pytest.approx(0.8), pytest.approx(2.3)]] * 2
    evaluations = frame(run, "evaluations")
    assert (evaluations["loss"] >= 0.5 * GAMMA * evaluations["parameter_norm"] ** 2).all()


FROZEN = '''"""A network whose first layer is given."""

import math
from typing import final

from torch import nn

from lossgeo import Model


@final
class Frozen(Model):
    """The first layer stays as it was drawn."""

    def module(self, task):
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs), 4), nn.Tanh(), nn.Linear(4, task.outputs))
        net[1].requires_grad_(False)
        return net
'''


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5},
        {"name": "adamw", "lr": 0.1, "weight_decay": 0.5},
        {"name": "rmsprop", "lr": 0.1, "weight_decay": 0.5},
        {"name": "noisy_gd", "lr": 0.1},
        {"name": "perturbed_gd", "lr": 0.1, "gradient_threshold": 10.0},
    ],
    ids=lambda optimizer: optimizer["name"],
)
@pytest.mark.parametrize("replicas", [1, 3])
def test_decay_and_noise_leave_frozen_parameters_alone(
    optimizer: dict[str, Any], replicas: int, tmp_path: Path
) -> None:
    """As torch.optim does; else decay took them to zero, by up to 3.6, and no gradient said so."""
    (tmp_path / "frozen.py").write_text(FROZEN)
    changes = {"model": "frozen", "optimizer": optimizer, "probes": [], "replicas": replicas}
    changes |= {"checkpoint": {"at": ["first", "last"]}, "steps": 200, "include_decay": optimizer["name"] == "sgd"}
    run = trained(tmp_path, [tmp_path / "frozen.py"], base=NET | changes)
    first, *_, last = (load_file(path)["theta"].view(replicas, -1) for _, path in sorted(run.checkpoints().items()))
    kept = 4 * 4 + 4  # of four components
    assert torch.equal(first[:, :kept], last[:, :kept])
    assert not torch.equal(first[:, kept:], last[:, kept:])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"name": "adamw", "lr": 0.1}}, "shrinks theta beside the gradient"),
        ({"start": {"plant": "duplicate_unit"}}, "those of the loss without decay"),
    ],
)
def test_what_is_no_loss_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        resolve(Document({**NET, **changes, "include_decay": True}, "test"))


def test_where_nothing_decays_nothing_is_added(tmp_path: Path) -> None:
    for optimizer in ({"name": "noisy_gd", "lr": 0.05}, {"name": "adamw", "lr": 0.01, "weight_decay": 0.0}):
        plain, decayed = twice(tmp_path, optimizer=optimizer, probes=[])
        assert frame(plain, "evaluations")["loss"].equals(frame(decayed, "evaluations")["loss"])
