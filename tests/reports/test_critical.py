"""The report of critical points: counts and shares from written tables whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossgeo.reports import Summary
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.critical import Critical
from lossgeo.tables import Row
from tests.support.synthetic import recipe, write_run


def point(loss: float, index: int, **more: Any) -> Row:
    kind = "minimum" if index == 0 else "saddle"
    known = {"loss": loss, "index": float(index), "kind": kind, "size": 10, "probe": "critical_points-1"}
    return {
        "step": 0,
        "accepted": True,
        "flat": False,
        "spectrum": [-1.0] * index + [1.0] * (10 - index),
        **known,
        **more,
    }


def rendered(tmp_path: Path, tables: list[list[Row]], keys: list[dict[str, Any]] | None = None) -> Summary:
    for number, rows in enumerate(tables):
        asked = recipe(**((keys or [{"seed": n} for n in range(len(tables))])[number]))
        write_run(tmp_path, f"{number:08x}", asked, {"critical_points": rows})
    return Critical().render(Study.open([tmp_path]))


def test_searches_points_and_flat_ones_are_counted(tmp_path: Path) -> None:
    rows = [point(float(n), n) for n in range(6)]
    lost = point(9.0, 3, accepted=False, flat=True, kind="not critical")
    failed = {"step": 0, "probe": "critical_points-1", "failure": "ArithmeticError: a product is not finite"}
    summary = rendered(tmp_path, [[*rows, lost, failed], []])
    (row,) = summary.rows
    assert (row["measured"], row["searches"], row["points"], row["minimum"], row["saddle"]) == (7, 7, 6, 1, 5)
    assert row["accepted_share"] == pytest.approx(6 / 7)
    assert row["flat_share"] == pytest.approx(1 / 7)
    assert row["minimum_share"] == pytest.approx(1 / 6)
    assert row["spearman"] == pytest.approx(1.0)
    assert row["theory_share"] is None
    assert row["index_rms"] is None
    notes = " ".join(summary.notes)
    assert "1 of 2 runs did not look for critical points" in notes
    assert "1 measurements failed: ArithmeticError" in notes


def test_points_that_theory_knows_are_compared_in_loss_and_index(tmp_path: Path) -> None:
    right = [point(1.0 + n, n, expected_loss=1.0 + n, expected_index=float(n)) for n in range(8)]
    wrong_index = point(3.0, 2, expected_loss=3.0, expected_index=3.0)
    wrong_loss = point(3.1, 2, expected_loss=3.0, expected_index=2.0)
    (row,) = rendered(tmp_path, [[*right, wrong_index, wrong_loss]]).rows
    assert row["theory_share"] == 0.8
    assert row["theory_share_low"] < 0.8 < row["theory_share_high"]
    assert row["index_rms"] == pytest.approx((0.1**2 / 10) ** 0.5)


def test_a_theory_of_the_mean_has_no_share(tmp_path: Path) -> None:
    """An index is a whole number and its mean is not, so that no point would ever have it."""
    rows = [point(float(n), n, expected_loss=float(n), expected_index=n + 0.5) for n in range(6)]
    (row,) = rendered(tmp_path, [rows]).rows
    assert row["theory_share"] is None
    assert row["index_rms"] == pytest.approx(0.05)


def test_the_interval_of_a_root_mean_square_holds_the_truth(tmp_path: Path) -> None:
    draws, held = np.random.default_rng(0), 0
    for trial in range(100):
        rows = [point(0.0, 5, expected_loss=0.0, expected_index=5 + 10 * e) for e in draws.normal(0, 0.02, 60)]
        (row,) = rendered(tmp_path / str(trial), [rows]).rows
        held += row["index_rms_low"] <= 0.02 <= row["index_rms_high"]
    assert held >= 90


def test_whatever_is_drawn_by_a_seed_is_pooled(tmp_path: Path) -> None:
    keys: list[dict[str, Any]] = [{"dataset": {"seed": n}, "steps": 200 + 100 * (n // 2)} for n in range(4)]
    rows = rendered(tmp_path, [[point(1.0, 0)]] * 4, keys).rows
    assert [(row["steps"], row["points"]) for row in rows] == [(200, 2), (300, 2)]


def test_the_figure_has_a_panel_of_spectra_where_there_are_some(tmp_path: Path) -> None:
    rows = [point(float(n), n, expected_loss=float(n), expected_index=float(n)) for n in range(9)]
    draw = rendered(tmp_path / "whole", [rows]).draw
    assert draw is not None
    assert [axis.get_title(loc="left") for axis in draw().axes] == [
        "index against loss",
        "critical points by index",
        "eigenvalues by loss",
    ]
    without = rendered(tmp_path / "ends", [[{**row, "spectrum": None} for row in rows]]).draw
    assert without is not None
    assert len(without().axes) == 2


def test_the_energy_of_minima_goes_to_its_limit(tmp_path: Path) -> None:
    """energy = -1.6 + 2 N^(-2/3), with a spread over runs; saddles do not count."""
    draws, tables, keys = np.random.default_rng(0), [], []
    for size in (10, 20, 40, 80):
        for seed in range(10):
            energy = -1.6 + 2 * size ** (-2 / 3) + draws.normal(0, 0.01)
            minimum = point(energy * size, 0, size=size)
            tables.append([minimum, minimum, point(0.0, 3, size=size)])
            keys.append({"model": {"hidden": [size]}, "seed": seed})
    rows = rendered(tmp_path, tables, keys).rows
    assert [row["energy"] for row in rows] == pytest.approx(
        [-1.6 + 2 * n ** (-2 / 3) for n in (10, 20, 40, 80)], abs=0.02
    )
    assert len({row["energy_limit"] for row in rows}) == 1
    assert rows[0]["energy_limit"] == pytest.approx(-1.6, abs=0.02)
    assert rows[0]["energy_limit_low"] < -1.6 < rows[0]["energy_limit_high"]
    assert rows[0]["energy_limit_high"] - rows[0]["energy_limit_low"] < 0.05
    (alone,) = rendered(tmp_path / "alone", tables[:1], keys[:1]).rows
    assert alone["energy_limit"] is None
