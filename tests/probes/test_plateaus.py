"""Plateaus: found where they are, classified by what lies there, and left when the local theory says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lossgeo.landscapes.point import Point
from lossgeo.probes.plateaus import History, Plateaus
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.plateaus import Plateaus as Report
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.probing import probe
from lossgeo.runs.run import Run
from lossgeo.tables import Row
from tests.support.networks import noisy, untouched
from tests.support.program import DIGITS, SADDLE, frame, trained
from tests.support.synthetic import recipe, write_run

ON_THE_WAY: dict[str, Any] = {"name": "plateaus", "every": 5}


def met(norms: list[float], keep: int = 4, share: float = 0.1) -> list[tuple[int, int, int, bool]]:
    """(number, first, last, censored) of the plateaus in a series of gradient norms; measurement i is step 10 i."""

    memory: dict[str, torch.Tensor] = {}
    found = []
    for number, norm in enumerate(norms):
        theta = torch.tensor([10.0 * number])
        history = History.of(memory, theta).extended(10 * number, norm, theta, keep)
        ended = number == len(norms) - 1
        plateau = history.left(share, ended) or (history.resting(share) if ended else None)
        if plateau is not None:
            first, last = (int(history.steps[n]) // 10 for n in (plateau.first, plateau.last))
            found.append((int(history.number), first, last, plateau.censored))
            assert torch.equal(history.kept[:, 0], history.kept_steps.double()), "points are kept with their steps"
            assert len(history.kept) < 2 * keep
            history = history.after(plateau)
        memory = history.memory()
    return found


@pytest.mark.parametrize(
    ("norms", "found"),
    [
        ([1e-6, 1e-4, 1e-2, 1.0, 0.4, 0.3], [(0, 0, 3, False)]),  # begun on one
        ([1.0, 0.01, 0.01, 0.05, 1.0, 0.9, 0.3], [(0, 1, 4, False)]),  # with a peak before
        ([1.0, 0.5, 0.2, 0.5, 1.0, 0.4], []),  # not deep enough
        ([1.0, 0.5, 0.01, 0.01], [(0, 2, 3, True)]),  # ended on one
        ([1.0, 0.01, 0.01, 1.0, 1.2], [(0, 1, 3, False)]),  # ended before the peak was passed
        ([1.0, 0.01, 1.0, 0.4, 0.01, 0.01, 2.0, 0.5, 0.1], [(0, 1, 2, False), (1, 4, 6, False), (2, 8, 8, True)]),
        ([0.01] * 40 + [1.0, 0.1], [(0, 0, 40, False)]),
        ([1e-3] * 10, []),  # nothing to compare with
        ([1.0], []),
    ],
)
def test_a_series_of_norms_has_the_plateaus_that_one_sees(
    norms: list[float], found: list[tuple[int, int, int, bool]]
) -> None:
    assert met(norms) == found


def test_noise_makes_no_plateaus() -> None:
    draws = np.random.default_rng(0)
    assert met((0.1 * np.exp(draws.normal(0, 0.3, 2000))).tolist()) == []


def test_a_saddle_on_the_way_is_a_strict_plateau_and_is_left_when_its_curvature_says(tmp_path: Path) -> None:
    """Near (0, 0, 0) of a quadratic saddle with walls, lr 0.1: |g| grows by 1.02 a step from 2e-7 on."""
    table = frame(trained(tmp_path, base=SADDLE, escape=None, probes=[ON_THE_WAY], steps=3000), "plateaus")
    assert len(table) == 5 * 601, "every measurement has a row"
    assert (table.groupby("replica")["gradient_norm"].first() < 1e-6).all()
    left = table[table["number"] == 0]
    assert len(left) == 5
    assert left["strict"].all()
    assert (left["lambda_min"] + 0.2).abs().max() < 1e-3
    assert (left["lambda_min_error"] < 1e-3).all()
    assert not left["censored"].any()
    assert (left["start_step"] == 0).all()
    middle = (left["start_step"] + left["end_step"]) / 2
    assert ((left["middle_step"] - middle).abs() <= left["end_step"] / 16).all()
    assert (left["end_step"] - left["middle_step"] == left["leaving_steps"]).all()
    assert (left["leaving_steps"] / left["predicted_steps"] - 1).abs().max() < 0.05
    rest = table[table["number"] == 1]
    assert rest["censored"].all()
    assert not rest["strict"].any(), "training ends at a minimum"
    assert rest["end_step"].isna().all()
    assert (rest["last_step"] == 3000).all()


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "adam", "lr": 0.01}])
def test_momentum_has_a_theory_and_adam_has_none(optimizer: dict[str, Any], tmp_path: Path) -> None:
    table = frame(trained(tmp_path, base=SADDLE, escape=None, probes=[ON_THE_WAY], optimizer=optimizer), "plateaus")
    left = table[(table["number"] == 0) & ~table["censored"].eq(True)]
    if optimizer["name"] == "adam":
        assert left["predicted_steps"].isna().all()
    else:
        assert len(left) == 5
        assert (left["leaving_steps"] / left["predicted_steps"] - 1).abs().max() < 0.1


@pytest.mark.parametrize("schedule", [{"name": "constant", "warmup": 900}, {"name": "cosine"}], ids=lambda s: s["name"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_way_out_follows_the_schedule(momentum: float, schedule: dict[str, Any], tmp_path: Path) -> None:
    changes = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": momentum}, "schedule": schedule}
    run = trained(tmp_path, base=SADDLE, escape=None, probes=[ON_THE_WAY], steps=3000, **changes)
    table = frame(run, "plateaus")
    left = table[(table["number"] == 0) & ~table["censored"].eq(True)]
    assert len(left) == 5
    assert (left["leaving_steps"] / left["predicted_steps"] - 1).abs().max() < 0.1


def test_what_was_met_is_the_same_after_a_stop_and_on_checkpoints(tmp_path: Path) -> None:
    """A history goes through checkpoints; and points that a run kept are a history too."""
    settings = {"escape": None, "probes": [ON_THE_WAY], "checkpoint": {"every": 5}, "steps": 1500}
    whole = trained(tmp_path / "whole", base=SADDLE, **settings)
    stopped = trained(tmp_path / "stopped", base=SADDLE, **settings)
    for step, path in stopped.checkpoints().items():
        if step > 700:
            path.unlink()
    stopped.note(status="stopped", step=700)
    again = trained(tmp_path / "stopped", base=SADDLE, **settings)
    assert [s for s in again.checkpoints() if s > 700], "it was trained to its end again"
    apart = ["run", "seconds"]
    pd.testing.assert_frame_equal(
        frame(whole, "plateaus").drop(columns=apart), frame(again, "plateaus").drop(columns=apart)
    )
    bare = trained(tmp_path / "bare", base=SADDLE, **{**settings, "probes": []})
    for _ in probe(bare.folder, [Plateaus(every=5)], "all", Interrupt()):
        pass
    later = frame(Run.open(bare.folder), "plateaus")
    pd.testing.assert_frame_equal(frame(whole, "plateaus").drop(columns=apart), later.drop(columns=apart))


def test_a_plateau_is_measured_without_leaving_a_trace() -> None:
    landscape = noisy()
    theta, probe = landscape.start(), Plateaus()
    kept = torch.stack([theta, theta + 0.01])
    steps, norms = torch.tensor([0, 10]), torch.tensor([1e-9, 1e9], dtype=torch.float64)
    memory = History(steps, norms, steps, kept, torch.tensor(1), torch.tensor(2)).memory()
    with untouched(landscape, theta):
        found = probe.run(landscape, Point(20, theta, {}), memory, 0)
    (row,) = found.rows
    assert (row.get("failure"), row["number"], row["start_step"], row["end_step"]) == (None, 2, 0, 10)
    assert row["lambda_min"] < row["lambda_max"]
    assert (row["predicted_steps"], int(found.memory["number"])) == (None, 3)  # no optimizer is known here


def test_a_run_by_itself_has_plateaus_too(tmp_path: Path) -> None:
    probes = [{"name": "plateaus", "every": 10}]
    table = frame(trained(tmp_path, base=DIGITS, replicas=1, batch_size="full", steps=200, probes=probes), "plateaus")
    assert len(table) == 21
    assert table["failure"].isna().all()


# --- the report ------------------------------------------------------------------------------------------------------


def plateau(number: int, steps: int, ratio: float = 1.0, **more: Any) -> Row:
    known: Row = {"step": 500, "number": number, "start_step": 100, "end_step": 100 + steps, "last_step": 100 + steps}
    known |= {"censored": False, "middle_loss": 1.0 / (1 + number), "lambda_min": -0.1, "lambda_max": 2.0}
    return {**known, "strict": True, "leaving_steps": int(50 * ratio), "predicted_steps": 50.0, **more}


def test_plateaus_are_compared_by_their_number(tmp_path: Path) -> None:
    rest = {"strict": False, "lambda_min": 0.1, "censored": True, "end_step": None}
    rest |= {"leaving_steps": None, "predicted_steps": None}
    for seed in range(6):
        found = [plateau(0, 100 + seed, 1.1), plateau(1, 200, strict=seed > 0), plateau(2, 300, **rest)]
        measured = [{"step": 10 * n, "gradient_norm": 1.0} for n in range(3)]
        write_run(tmp_path, f"{seed:08x}", recipe(seed=seed), {"plateaus": [*measured, *found]})
    write_run(tmp_path, "f" * 8, recipe(seed=9), {})
    summary = Report().render(Study.open([tmp_path]))
    first, second, last = summary.rows
    assert (first["number"], first["plateaus"], first["censored"]) == (0, 6, 0)
    assert 99 <= first["steps_low"] <= first["steps"] <= first["steps_high"] <= 105
    assert first["ratio"] == pytest.approx(1.1)
    assert second["strict_share"] == pytest.approx(5 / 6)
    assert second["middle_loss"] == 0.5
    assert (last["censored"], last["steps"], last["ratio"], last["predicted_steps"]) == (6, None, None, None)
    assert "1 of 7 runs did not look for plateaus" in summary.notes[0]
    assert summary.draw is not None
    assert len(summary.draw().axes) == 2


def test_without_plateaus_there_are_counts(tmp_path: Path) -> None:
    write_run(tmp_path, "0" * 8, recipe(), {"plateaus": [{"step": 0, "gradient_norm": 1.0}]})
    summary = Report().render(Study.open([tmp_path]))
    (row,) = summary.rows
    assert (row["number"], row["plateaus"], row["steps"]) == (None, 0, None)
    assert summary.draw is None
