"""The threshold that an optimizer states is where its steps stop contracting: tried on quadratics, 1% each side."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lossgeo.components.finding import find, names
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.adam import Adam
from lossgeo.optimizers.adamw import AdamW
from lossgeo.optimizers.noisy_gd import NoisyGD
from lossgeo.optimizers.perturbed_gd import PerturbedGD
from lossgeo.optimizers.rmsprop import RMSprop
from lossgeo.optimizers.sgd import SGD
from lossgeo.randomness import Noise
from tests.support.program import frame, lossgeo, manifest, trained
from tests.support.steps import given_loss

STEPS = 3000  # a heavy ball of 0.99 at its threshold shrinks or grows by a third of a percent a step, 1% off it


def growth(optimizer: Optimizer, curvature: float) -> float:
    """By how much the largest displacement of the last third is above that of the third before it.

    It begins so small that eps = 1 is all of an adaptive optimizer's D: the preconditioner is frozen, at 1, once the
    first moment's bias is corrected; before, steps are up to ten times as long and it grows.
    """
    theta = torch.tensor([1e-30], dtype=torch.float64)
    seen = []
    state: dict[str, torch.Tensor] | None = None
    for step in range(STEPS):
        loss = given_loss(lambda x: (0.5 * curvature * (x * x).sum(), curvature * x), Noise(step))
        state = optimizer.init(loss, theta) if state is None else state
        theta, state, *_ = optimizer.step(loss, theta, state, optimizer.lr)
        seen.append(float(theta.abs()))
        if seen[-1] > 1e-8:
            return float("inf")
    return max(seen[-STEPS // 3 :]) / max(seen[STEPS // 3 : -STEPS // 3])


def brackets(optimizer: Optimizer, include_decay: bool = False) -> None:
    found = optimizer.threshold(optimizer.lr, include_decay)
    assert found is not None
    decay = (optimizer.penalty() or 0.0) if include_decay else 0.0
    size = 0.01 * abs(found.value + (optimizer.penalty() or 0.0) - decay)
    assert growth(optimizer, found.value - decay - size) < 1
    assert growth(optimizer, found.value - decay + size) > 1


def test_sgd_by_all_its_keys() -> None:
    tried = 0
    for b, d, nesterov, decay, lr in itertools.product(
        (0.0, 0.5, 0.9, 0.99), (0.0, 0.3, 0.9), (False, True), (0.0, 0.5, 2.0), (0.05, 1.0)
    ):
        if nesterov and (b == 0 or d > 0):
            continue
        optimizer = SGD(lr=lr, momentum=b, dampening=d, nesterov=nesterov, weight_decay=decay)
        brackets(optimizer, include_decay=tried % 2 == 0)
        tried += 1
    assert tried == 90


def test_adaptive_ones_with_a_frozen_preconditioner() -> None:
    for b, decay, amsgrad in itertools.product((0.0, 0.5, 0.9), (0.0, 0.5, 5.0), (False, True)):
        options: dict[str, Any] = {"lr": 0.1, "betas": (b, 0.99), "eps": 1.0, "weight_decay": decay, "amsgrad": amsgrad}
        brackets(Adam(**options), include_decay=True)
        brackets(AdamW(**options))
    for b, decay, centered in itertools.product((0.0, 0.9), (0.0, 5.0), (False, True)):
        brackets(RMSprop(lr=0.1, momentum=b, eps=1.0, weight_decay=decay, centered=centered), include_decay=True)


@pytest.mark.parametrize("optimizer", [NoisyGD(lr=0.1, noise=1e-13), PerturbedGD(lr=0.1, radius=1e-13)], ids=repr)
def test_noise_leaves_the_threshold_where_it_is(optimizer: Optimizer) -> None:
    assert growth(optimizer, 0.99 * 20) < 10, "it stays among its noise"
    assert growth(optimizer, 1.01 * 20) == float("inf")
    assert optimizer.threshold(0.1) == (pytest.approx(20.0), "hessian")


def test_published_numbers() -> None:
    def value(optimizer: Optimizer, lr: float) -> float:
        found = optimizer.threshold(lr)
        assert found is not None
        return found.value

    assert value(SGD(momentum=0.9), 0.05) == pytest.approx(76.0)
    assert value(SGD(momentum=0.9, nesterov=True), 1.0) == pytest.approx(3.8 / 2.8)
    assert value(SGD(weight_decay=2.0), 0.1) == pytest.approx(18.0)
    assert value(SGD(dampening=0.5), 0.1) == pytest.approx(20.0), "without momentum nothing is dampened"
    assert value(Adam(), 2e-4) == pytest.approx(190_000.0)
    assert value(AdamW(weight_decay=0.5), 0.1) == pytest.approx(370.5)
    assert value(RMSprop(), 0.1) == pytest.approx(20.0)


def test_there_is_none_where_no_theory_says() -> None:
    for optimizer in (
        SGD(momentum=0.9, dampening=1.0),
        Adam(betas=(0.9, 0.0)),
        Adam(weight_decay=0.1),
        RMSprop(alpha=0.0),
        RMSprop(weight_decay=0.1),
    ):
        assert optimizer.threshold(0.1) is None
    assert Adam(weight_decay=0.1).threshold(0.1, include_decay=True) == Adam().threshold(0.1)


@pytest.mark.parametrize("name", names(Optimizer))
def test_a_threshold_is_of_the_hessian_where_the_preconditioner_is_one(name: str) -> None:
    optimizer = find(Optimizer, name)(**({"weight_decay": 0.0} if name == "adamw" else {}))
    assert optimizer.threshold(0.0) is None
    found = optimizer.threshold(0.1)
    assert found is not None
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64)
    loss = given_loss(lambda x: ((x * x).sum() / 2, x.clone()))
    state = optimizer.init(loss, theta)
    taken = optimizer.step(loss, theta, state, 0.1)
    one = torch.ones(2, dtype=torch.float64)
    plain = torch.equal(optimizer.preconditioner(taken.theta, taken.state).inverse_root(one), one)
    assert found.of == ("hessian" if plain else "preconditioned")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {}),
        ("adam", {"amsgrad": True, "betas": (0.5, 0.9)}),
        ("adamw", {"weight_decay": 0.3}),
        ("rmsprop", {}),
        ("rmsprop", {"centered": True}),
    ],
    ids=str,
)
def test_the_preconditioner_is_that_of_the_last_step(name: str, options: dict[str, Any]) -> None:
    """theta_t = (1 - lr decay) theta - lr D^-1 m, m the mean gradient (for RMSprop the gradient itself)."""
    optimizer, lr = find(Optimizer, name)(**options), 0.05
    theta = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    curvatures = torch.tensor([3.0, 0.2, 1.0], dtype=torch.float64)
    loss = given_loss(lambda x: ((curvatures * x * x).sum() / 2, curvatures * x))
    state, kept = optimizer.init(loss, theta), 1 - lr * (options.get("weight_decay", 0.0) if name == "adamw" else 0.0)
    for _ in range(5):
        before = theta.clone()
        theta, state, *_ = optimizer.step(loss, theta, state, lr)
        m = state.get("exp_avg", curvatures * before)
        root = optimizer.preconditioner(theta, state).inverse_root
        torch.testing.assert_close(theta, kept * before - lr * root(root(m)), rtol=1e-13, atol=1e-15)


# --- in runs and their report ----------------------------------------------------------------------------------------

QUADRATIC: dict[str, Any] = {
    "name": "edge",
    "surface": {"name": "quadratic", "spectrum": [19.0, 1.0]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "steps": 200,
    "threads": 1,
    "log": {"every": 1},
    "evaluate": {"every": 20},
    "probes": [{"name": "eigenvalues", "bottom": 0, "every": 20}],
}


def shown(run: Path, kind: str, cwd: Path) -> tuple[list[dict[str, Any]], str]:
    told = lossgeo("report", kind, run, "--format", "json", cwd=cwd)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout), told.stderr


def test_a_run_below_two_over_lr_diverges_by_its_weight_decay_and_the_report_shows_why(tmp_path: Path) -> None:
    plain = trained(tmp_path, base=QUADRATIC)
    assert manifest(plain.folder)["status"] == "done"
    decayed = trained(tmp_path, base=QUADRATIC, optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 2.0}, steps=2000)
    assert manifest(decayed.folder)["status"] == "diverged"
    for run, threshold in ((plain, 20.0), (decayed, 18.0)):
        rows, _ = shown(run.folder, "curves", tmp_path)
        (row,) = [row for row in rows if row["step"] == 20]
        assert row["threshold"] == pytest.approx(threshold)
        assert row["lambda_max"] == pytest.approx(19.0, rel=1e-3)


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_threshold_follows_the_schedule(replicas: int, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.5}
    schedule = {"name": "cosine", "warmup": 50}
    run = trained(tmp_path, base=QUADRATIC, optimizer=optimizer, schedule=schedule, replicas=replicas)
    steps = frame(run, "steps")
    assert set(steps["replica"]) == set(range(replicas))
    assert (steps["threshold"] - (3.8 / steps["lr"] - 0.5)).abs().max() < 1e-9 * steps["threshold"].max()
    assert set(steps["threshold_of"]) == {"hessian"}
    rows, _ = shown(run.folder, "curves", tmp_path)
    drawn = {row["step"]: row["threshold"] for row in rows}
    assert drawn[0] == pytest.approx(50 * 76.0 - 0.5)
    assert drawn[60] == pytest.approx(3.8 / steps.set_index("step")["lr"].loc[[60]].iloc[0] - 0.5)
    assert drawn[200] is None, "the rate of a step that is never taken"


def test_adams_threshold_stands_beside_its_own_curvature_alone(tmp_path: Path) -> None:
    probes = [
        {"name": "eigenvalues", "bottom": 0, "every": 20},
        {"name": "eigenvalues", "operator": "preconditioned", "bottom": 0, "at": [20, 40, "last"]},
    ]
    run = trained(tmp_path, base=QUADRATIC, optimizer={"name": "adam", "lr": 2e-4}, probes=probes)
    rows, notes = shown(run.folder, "curves", tmp_path)
    assert {row["threshold"] for row in rows} == {None}
    assert "The threshold of 1 runs is one of operator preconditioned" in notes
    rows, _ = shown(run.folder, "curves:operator=preconditioned", tmp_path)
    assert [row["threshold"] for row in rows if row["lambda_max"]] == [pytest.approx(190_000.0)] * 3
    decayed = trained(tmp_path, base=QUADRATIC, optimizer={"name": "adam", "lr": 2e-4, "weight_decay": 0.1})
    rows, notes = shown(decayed.folder, "curves", tmp_path)
    assert {row["threshold"] for row in rows} == {None}
    assert "1 of 1 runs have no threshold" in notes


def test_no_threshold_stands_beside_a_preconditioned_map_that_is_not_the_hessian(tmp_path: Path) -> None:
    kinds = {"hessian": "preconditioned", "gauss_newton": {"name": "preconditioned", "of": "gauss_newton"}}
    for kind, operator in kinds.items():
        probes = [{"name": "eigenvalues", "operator": operator, "bottom": 0, "at": ["last"]}]
        run = trained(
            tmp_path / kind, optimizer={"name": "adam", "lr": 1e-3}, steps=10, log={"every": 1}, probes=probes
        )
        rows, notes = shown(run.folder, "curves:operator=preconditioned", tmp_path)
        (row,) = [row for row in rows if row["lambda_max"]]
        assert row["threshold"] == (pytest.approx(38_000.0) if kind == "hessian" else None)
        assert ("another map than the Hessian" in notes) == (kind == "gauss_newton")
