"""Where trials end: counts, means and spreads from written tables whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossgeo.reports import Summary
from lossgeo.reports.analysis.intervals import spread_ratio
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.endings import Endings
from lossgeo.tables import Row
from tests.support.synthetic import recipe, write_run


def trial(number: int, train: float, test: float | None = None, begun: float = 2.0, last: int = 100) -> list[Row]:
    rows: list[Row] = []
    for step, fallen in ((0, False), (last, True)):
        shared = {"replica": number, "step": step, "accuracy": 0.9}
        rows.append({**shared, "split": "train", "loss": train if fallen else begun})
        if test is not None:
            rows.append({**shared, "split": "test", "loss": test if fallen else begun})
    return rows


def rendered(tmp_path: Path, tables: list[list[Row]], keys: list[dict[str, Any]], status: str = "done") -> Summary:
    for number, (rows, key) in enumerate(zip(tables, keys, strict=True)):
        write_run(tmp_path, f"{number:08x}", recipe(**key), {"evaluations": rows} if rows else {}, status=status)
    return Endings().render(Study.open([tmp_path]))


def test_trials_of_runs_that_differ_in_the_seed_are_pooled(tmp_path: Path) -> None:
    tables = [[row for n in range(5) for row in trial(n, 0.1 + 0.01 * n, 0.3 + 0.02 * n)] for _ in range(2)]
    (row,) = rendered(tmp_path, tables, [{"seed": 0}, {"seed": 1}]).rows
    assert (row["trials"], row["fell_share"]) == (10, 1.0)
    assert row["train_loss"] == pytest.approx(0.12)
    assert row["test_loss"] == pytest.approx(0.34)
    assert row["test_loss_low"] < 0.34 < row["test_loss_high"]
    assert row["test_accuracy"] == pytest.approx(0.9)
    assert row["spread"] == pytest.approx(np.std([0.3, 0.32, 0.34, 0.36, 0.38] * 2, ddof=1))
    assert row["correlation"] == pytest.approx(1.0)
    assert row["spread_ratio"] == pytest.approx(1.0)
    assert row["spread_ratio_low"] is row["spread_ratio_high"] is None, "of the first row over itself"


def test_what_did_not_fall_is_counted_and_left_out(tmp_path: Path) -> None:
    fell = [row for n in range(6) for row in trial(n, 0.1 * n)]
    lost = [*trial(8, 0.5, last=50), *trial(8, float("nan"))[1:]]  # fell, then broke
    grew = [*trial(6, 1e9), *trial(7, float("inf")), *lost, *trial(10, 3.0)]
    missing = trial(9, 2.0, last=0)[:1]  # looked at once, at the start
    summary = rendered(tmp_path, [[*fell, *grew, *missing], []], [{"seed": 0}, {"seed": 1}])
    (row,) = summary.rows
    assert (row["trials"], row["used"], row["diverged"], row["unfinished"]) == (11, 6, 4, 0)
    assert row["fell_share"] == pytest.approx(6 / 11)
    assert row["train_loss"] == pytest.approx(0.25)
    assert row["test_loss"] is None
    assert row["spread"] == pytest.approx(np.std(0.1 * np.arange(6), ddof=1)), "of the training loss: there is no other"
    assert "1 of 2 runs evaluated nothing" in summary.notes[0]
    assert "4 trials diverged" in summary.notes[1]
    assert "1 trials did not end below where they began" in summary.notes[2]


@pytest.mark.parametrize("recorded", [True, False])
def test_trials_that_fell_before_they_diverged_did_not_fall(recorded: bool, tmp_path: Path) -> None:
    """Ten trials and ten runs whose every evaluation is lower than the one before, and that diverged after it."""
    manifest: dict[str, Any] = {"status": "diverged", "step": 150}
    alone = [*trial(0, 0.5)]
    many = [row for n in range(10) for row in trial(n, 0.5)]
    write_run(
        tmp_path,
        "00000000",
        recipe(replicas=10),
        {"evaluations": many},
        **manifest,
        **({"trials": {"diverged": {str(n): 149 for n in range(10)}}} if recorded else {}),
    )
    for number in range(10):
        write_run(tmp_path, f"{number + 1:08x}", recipe(seed=number), {"evaluations": alone}, **manifest)
    trials, runs = sorted(Endings().render(Study.open([tmp_path])).rows, key=lambda row: row["replicas"] is None)
    for row in (trials, runs):
        assert (row["trials"], row["used"], row["diverged"], row["fell_share"]) == (10, 0, 10, 0.0)
        assert row["train_loss"] is row["test_loss"] is row["spread"] is None


def test_trials_without_an_end_are_counted_and_left_out(tmp_path: Path) -> None:
    for number, status in enumerate(("done", "done", "stopped", "failed", "running", "diverged")):
        rows = trial(0, 0.1 + number, begun=10.0)
        write_run(tmp_path, f"{number:08x}", recipe(seed=number), {"evaluations": rows}, status=status, step=100)
    summary = Endings().render(Study.open([tmp_path]))
    (row,) = summary.rows
    assert [row[name] for name in ("trials", "used", "diverged", "unfinished")] == [6, 2, 1, 3]
    assert row["fell_share"] == pytest.approx(2 / 3)
    assert row["train_loss"] == pytest.approx(0.6)
    assert "3 runs have not ended" in summary.notes[0]


def test_the_spread_is_compared_with_that_of_the_first_row(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    tables, keys, spreads = [], [], []
    for width, sigma in ((5, 0.1), (100, 0.02)):
        losses = draws.normal(0.5, sigma, 40)
        spreads.append(np.std(losses, ddof=1))
        tables.append([row for n, loss in enumerate(losses) for row in trial(n, 0.1, loss)])
        keys.append({"model": {"hidden": [width]}})
    summary = rendered(tmp_path, tables, keys)
    first, second = summary.rows
    assert (first["model.hidden.0"], second["model.hidden.0"]) == (5, 100)
    assert first["spread_ratio"] == 1.0
    assert second["spread_ratio"] == pytest.approx(spreads[1] / spreads[0])
    assert 0.1 < second["spread_ratio_low"] < second["spread_ratio"] < second["spread_ratio_high"] < 0.4
    assert summary.draw is not None
    assert len(summary.draw().axes) == 1


def test_runs_that_go_on_are_named(tmp_path: Path) -> None:
    summary = rendered(tmp_path, [trial(0, 0.1)], [{}], status="running")
    assert "1 runs have not ended" in summary.notes[0]


def test_the_interval_of_a_ratio_of_spreads_holds_the_truth() -> None:
    draws, held = np.random.default_rng(1), 0
    for _ in range(200):
        found = spread_ratio(draws.normal(0, 0.5, 40), draws.normal(3, 1.0, 40))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.5 <= found.high
    assert held >= 180
