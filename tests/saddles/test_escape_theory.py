"""Predicted escape times against what happens: to the step without noise, to four errors of a median with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.adam import Adam
from lossgeo.optimizers.adamw import AdamW
from lossgeo.optimizers.noisy_gd import NoisyGD
from lossgeo.optimizers.perturbed_gd import PerturbedGD
from lossgeo.optimizers.schedules import Rates, Schedule
from lossgeo.optimizers.schedules.constant import Constant
from lossgeo.optimizers.schedules.cosine import Cosine
from lossgeo.optimizers.sgd import SGD
from lossgeo.saddles.escape_theory import predicted_steps
from lossgeo.saddles.first_passage import BatchNoise
from lossgeo.saddles.saddle import EscapeRule, Saddle
from tests.support.program import SADDLE, frame, trained
from tests.support.steps import given_loss

QUADRATIC = {"surface": {"name": "quadratic", "spectrum": [1.0, -0.2]}, "checkpoint": {"at": ["last"]}}
NOISY = {"name": "noisy_saddle", "spectrum": [1.0, -0.2], "noise": 0.01, "examples": 64, "wall": 1e-6}

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "warmup": {"name": "constant", "warmup": 300},
    "cosine": {"name": "cosine", "warmup": 20},
    "linear": {"name": "linear", "final": 3.0},
    "step": {"name": "step", "every": 100, "gamma": 0.9},
    "exponential": {"name": "exponential", "gamma": 0.999},
    "piecewise": {"name": "piecewise", "boundaries": [30, 90], "factors": [0.1, 2.0]},
}
DESCENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "dampened in vain": {"dampening": 0.5},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decayed": {"momentum": 0.5, "weight_decay": 0.05},
}


def agrees(table: pd.DataFrame) -> None:
    """The median of the trials and the prediction: within 4 standard errors, between the order statistics that far."""
    assert not table["censored"].any()
    assert table["predicted_steps"].nunique() == 1, "one law for all"
    steps, away = table["escape_step"], 2 / math.sqrt(len(table))
    low, high = steps.quantile(0.5 - away, "lower"), steps.quantile(0.5 + away, "higher")
    assert low <= table["predicted_steps"].iloc[0] <= high
    assert high - low < 0.2 * steps.median(), "which says something"


# --- without noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("descent", DESCENT)
def test_every_schedule_is_followed_to_the_step(descent: str, schedule: str, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 0.1, **DESCENT[descent]}
    run = trained(tmp_path, base=SADDLE | QUADRATIC, optimizer=optimizer, schedule=SCHEDULES[schedule], replicas=2)
    table = frame(run, "escapes")
    assert not table["censored"].any()
    assert (table["escape_step"] == table["predicted_steps"]).all()


def test_a_warm_up_is_no_small_learning_rate(tmp_path: Path) -> None:
    """By the first step's rate alone it was 69,085."""
    run = trained(tmp_path, base=SADDLE | QUADRATIC, schedule={"name": "constant", "warmup": 100}, replicas=1)
    table = frame(run, "escapes")
    assert (table["escape_step"].item(), table["predicted_steps"].item()) == (747, 747)


def test_the_length_of_a_schedule_in_epochs_counts(tmp_path: Path) -> None:
    changes = {"steps": None, "epochs": 2000, "schedule": {"name": "cosine"}}
    table = frame(trained(tmp_path, base=SADDLE | QUADRATIC, replicas=1, **changes), "escapes")
    assert table["escape_step"].item() == table["predicted_steps"].item() == 791


def test_who_is_not_away_when_the_rate_is_zero_never_is(tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=SADDLE | QUADRATIC, schedule={"name": "cosine"}, steps=1000), "escapes")
    assert table["censored"].all()
    assert table["predicted_steps"].isna().all()
    table = frame(trained(tmp_path, base=SADDLE | QUADRATIC, steps=100), "escapes")
    assert table["censored"].all()
    assert list(table["predicted_steps"]) == [698] * 5, "beyond the run the rate stays what it was"


@pytest.mark.parametrize("schedule", ["warmup", "cosine", "step"])
def test_degenerate_saddles_integrate_the_schedule(schedule: str, tmp_path: Path) -> None:
    changes = {"surface": "monkey_saddle", "start": {"at": "saddle", "offset": 0.01}, "escape": {"distance": 0.5}}
    changes |= {"schedule": SCHEDULES[schedule]}
    table = frame(trained(tmp_path, base=SADDLE, **changes), "escapes")
    assert (table["escape_step"] / table["predicted_steps"] - 1).abs().max() < 0.03
    assert table["escape_step"].iloc[0] != 331, "which a constant rate takes"


def test_weight_decay_pulls_trials_off_a_saddle_that_is_not_at_zero() -> None:
    """L = (x - s) H (x - s) / 2 with decay: against the optimizer's own steps."""
    curvatures, s = torch.tensor([1.0, -0.2], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    saddle = Saddle(0, s, 0.0, curvatures[1:], torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    loss = given_loss(lambda x: (0.5 * (curvatures * (x - s) ** 2).sum(), curvatures * (x - s)))
    for options in DESCENT.values():
        optimizer = SGD(lr=0.1, **{**options, "weight_decay": 1e-3})
        theta = s + torch.tensor([0.0, 1e-4], dtype=torch.float64)
        found = predicted(saddle, optimizer, Constant(), theta)
        state, step = optimizer.init(loss, theta), 0
        while abs(float((theta - s)[1])) <= 1.0:
            theta, state, *_ = optimizer.step(loss, theta, state, 0.1)
            step += 1
        assert found == step


def predicted(
    saddle: Saddle,
    optimizer: Optimizer,
    schedule: Schedule,
    theta: torch.Tensor,
    noise: BatchNoise | None = None,
    escape: EscapeRule | None = None,
) -> float | None:
    silence = BatchNoise(np.zeros((len(saddle.directions),) * 2), (1,))
    rates, rule = Rates(0.1, schedule, 2000), escape or EscapeRule(distance=1.0)
    return predicted_steps(lambda x: x.sum(), saddle, rule, optimizer, rates, theta[None].clone(), noise or silence)[0]


# --- with noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 12, 32])
@pytest.mark.parametrize("descent", ["plain", "momentum", "dampened", "nesterov"])
def test_batches_drawn_without_replacement_leave_when_theory_says(
    descent: str, batch_size: int, tmp_path: Path
) -> None:
    """Batches of one size without an order would be 1.1 to 1.4 times as fast, the rms in place of the median too."""
    changes: dict[str, Any] = {"surface": NOISY, "batch_size": batch_size, "replicas": 800, "steps": 4000}
    changes |= {"start": {"at": "saddle", "direction": "none"}, "escape": {"distance": 0.3}}
    optimizer = {"name": "sgd", "lr": 0.1, **DESCENT[descent]}
    agrees(frame(trained(tmp_path, base=SADDLE | QUADRATIC, optimizer=optimizer, **changes), "escapes"))


@pytest.mark.parametrize("schedule", ["warmup", "cosine", "step", "piecewise"])
def test_noise_is_scaled_by_the_schedule(schedule: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"surface": NOISY, "batch_size": 4, "replicas": 800, "steps": 4000}
    changes |= {"start": {"at": "saddle", "direction": "none"}, "escape": {"distance": 0.3}}
    changes |= {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}, "schedule": SCHEDULES[schedule]}
    agrees(frame(trained(tmp_path, base=SADDLE | QUADRATIC, **changes), "escapes"))


@pytest.mark.parametrize("offset", [0.0, 0.003])
def test_noise_beside_an_offset_in_directions_of_two_curvatures(offset: float, tmp_path: Path) -> None:
    surface = NOISY | {"spectrum": [1.0, -0.2, -0.1]}
    start = {"at": "saddle", "offset": offset, "direction": "negative" if offset else "none"}
    changes: dict[str, Any] = {"surface": surface, "batch_size": 4, "replicas": 800, "steps": 4000, "start": start}
    agrees(frame(trained(tmp_path, base=SADDLE | QUADRATIC, escape={"distance": 0.3}, **changes), "escapes"))


@pytest.mark.parametrize("spectrum", [[1.0, -0.2], [1.0, 0.3, -0.2, -0.15, -0.05]], ids=len)
def test_noise_of_the_optimizer_itself(spectrum: list[float], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"surface": {"name": "quadratic", "spectrum": spectrum}, "replicas": 800, "steps": 4000}
    changes |= {"start": {"at": "saddle", "direction": "none"}, "escape": {"distance": 0.3}}
    changes |= {"optimizer": {"name": "noisy_gd", "lr": 0.1, "noise": 0.02}, "schedule": SCHEDULES["warmup"]}
    agrees(frame(trained(tmp_path, base=SADDLE | QUADRATIC, **changes), "escapes"))


def test_where_no_theory_says_nothing_is_predicted() -> None:
    curvatures = torch.tensor([-0.2], dtype=torch.float64)
    saddle = Saddle(0, torch.zeros(2, dtype=torch.float64), 0.0, curvatures, torch.tensor([[0.0, 1.0]]).double())
    near = torch.tensor([0.0, 1e-4], dtype=torch.float64)
    for optimizer in (Adam(lr=0.1), AdamW(lr=0.1), PerturbedGD(lr=0.1)):
        assert predicted(saddle, optimizer, Constant(), near) is None
    assert predicted(saddle, SGD(lr=0.1, weight_decay=0.3), Constant(), near) is None, "decay makes it a minimum"
    assert predicted(saddle, SGD(lr=0.1), Constant(), 0 * near) is None, "nothing moves it"
    loud = BatchNoise(np.array([[100.0]]), (4,) * 16)
    assert predicted(saddle, SGD(lr=0.1), Constant(), near, loud) is None, "it is to and fro across the distance"
    fall = EscapeRule(loss_drop=0.1)
    assert predicted(saddle, NoisyGD(lr=0.1, noise=1e-3), Constant(), near, escape=fall) is None
    assert predicted(saddle, SGD(lr=0.1), Constant(), near, escape=fall) is not None
    assert predicted(saddle, SGD(lr=0.1), Cosine(), near) is not None
    flat = Saddle(0, near * 0, 0.0, torch.zeros(1, dtype=torch.float64), saddle.directions)
    assert predicted(flat, NoisyGD(lr=0.1, noise=1e-3), Constant(), near) is None
