"""Escapes from saddles: medians, their ratios and the law, from written tables whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossgeo.reports.analysis.study import Study
from lossgeo.reports.escape import Escape
from lossgeo.tables import Row
from tests.support.synthetic import recipe, write_run


def stay(trial: int, steps: int, saddle: int = 0, predicted: float | None = 100.0, left: bool = True) -> Row:
    return {
        "replica": trial,
        "step": 1000,
        "saddle": saddle,
        "start_step": 0,
        "escape_step": steps if left else None,
        "censored": not left,
        "last_step": steps,
        "ended": "escaped" if left else "budget",
        "underflow": False,
        "predicted_steps": predicted,
    }


def rendered(tmp_path: Path, tables: list[list[Row]], keys: list[dict[str, Any]]) -> list[Row]:
    for number, (rows, key) in enumerate(zip(tables, keys, strict=True)):
        write_run(tmp_path, f"{number:08x}", recipe(**key), {"escapes": rows})
    return list(Escape().render(Study.open([tmp_path])).rows)


def ends(row: Row, name: str) -> tuple[Any, Any, Any]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def test_trials_of_runs_that_differ_in_the_seed_are_pooled(tmp_path: Path) -> None:
    stays = [stay(n, 200) for n in range(6)]
    lasting = [stay(n, 1000, left=False) for n in range(6, 8)]
    (row,) = rendered(tmp_path, [stays, [*stays, *lasting]], [{"seed": 0}, {"seed": 1}])
    assert (row["trials"], row["escaped"], row["censored"]) == (14, 12, 2)
    assert row["escaped_share"] == pytest.approx(12 / 14)
    assert (row["median_steps"], row["low"], row["high"]) == (200, 199, 200), "all in one step"
    assert ends(row, "ratio") == (2, 1.99, 2)


def test_a_stage_is_compared_with_the_one_before_trial_by_trial(tmp_path: Path) -> None:
    """Every trial takes three times as long, however different they are: resampled in pairs, only steps are open."""
    times = np.random.default_rng(0).integers(20, 300, 15).tolist()
    table = [stay(n, factor * t, saddle) for saddle, factor in enumerate((1, 3)) for n, t in enumerate(times)]
    first, second = rendered(tmp_path, [table], [{}])
    assert ends(first, "stage_ratio") == (None, None, None)
    value, low, high = ends(second, "stage_ratio")
    assert value == 3
    assert 2.95 < low < 3 < high < 3.05
    few = [stay(n, factor * t, saddle) for saddle, factor in enumerate((1, 3)) for n, t in enumerate(times[:5])]
    _, second = rendered(tmp_path / "few", [few], [{}])
    assert ends(second, "stage_ratio") == (3, None, None)


def test_a_law_needs_every_trial_to_leave(tmp_path: Path) -> None:
    """1000 lr^-1 steps, give or take: exponent -1 and slope 1000."""
    draws, rates = np.random.default_rng(0), (0.5, 1.0, 2.0, 4.0)
    tables = [[stay(n, round(1000 / lr + draws.normal(0, 3))) for n in range(20)] for lr in rates]
    keys = [{"optimizer": {"lr": lr}} for lr in rates]
    row, *_ = rendered(tmp_path / "all", tables, keys)
    assert row["law"] == "power -1"
    assert row["exponent_low"] < -1 < row["exponent_high"]
    assert row["exponent"] == pytest.approx(-1, abs=0.02)
    assert row["slope"] == pytest.approx(1000, rel=0.01)
    assert row["slope_low"] < row["slope"] < row["slope_high"]
    tables[0][0] = stay(0, 1000, left=False)
    row, *_ = rendered(tmp_path / "not all", tables, keys)
    assert row["law"] is None
    assert ends(row, "exponent") == ends(row, "slope") == (None, None, None)


@pytest.mark.parametrize(("trials", "words"), [(5, "no intervals, n = 5: below 6"), (7, "95% Kaplan-Meier intervals")])
def test_the_picture_and_the_note_say_of_how_many_trials_a_median_is(trials: int, words: str, tmp_path: Path) -> None:
    write_run(tmp_path, "0" * 8, recipe(), {"escapes": [stay(n, 100 + 10 * n) for n in range(trials)]})
    answer = Escape().render(Study.open([tmp_path]))
    (said,) = (note for note in answer.notes if note.startswith(words))
    assert f"n = {trials}" in said
    assert answer.draw is not None
    figure = answer.draw()
    assert figure.get_supxlabel().startswith(said.rstrip("."))
    (band,) = figure.axes[0].collections
    assert np.isfinite(band.get_datalim(figure.axes[0].transData).ymin) == (trials >= 6)


def test_without_trials_there_are_counts_alone(tmp_path: Path) -> None:
    (row,) = rendered(tmp_path, [[]], [{}])
    assert (row["trials"], row["escaped"], row["median_steps"]) == (0, 0, None)
    assert ends(row, "ratio") == ends(row, "escaped_share") == (None, None, None)
