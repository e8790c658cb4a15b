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
    """Rows that do not say what the network does there are of different points."""
    for number, table in enumerate(tables):
        rows = [{"function": [100.0 * number, float(place)], **row} for place, row in enumerate(table)]
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


@pytest.mark.parametrize(("more", "line"), [(0.0, "None"), (0.5, "--")])
def test_theory_is_a_line_where_it_is_a_mean_and_rings_where_each_point_has_its_own(
    tmp_path: Path, more: float, line: str
) -> None:
    rows = [point(float(n), n % 3, expected_loss=float(n), expected_index=n % 3 + more) for n in range(9)]
    draw = rendered(tmp_path, [rows]).draw
    assert draw is not None
    _, theory = draw().axes[0].get_lines()
    assert theory.get_linestyle() == line
    assert sorted(np.asarray(theory.get_ydata())) == sorted(row["expected_index"] for row in rows)


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


# --- points and rows -------------------------------------------------------------------------------------------------


def one(place: float, index: int = 2, **more: Any) -> Row:
    """A row of the point at `place`."""
    return point(place, index, function=[place, -place], function_error=1e-12, **more)


def test_a_point_counts_once_however_often_it_is_found(tmp_path: Path) -> None:
    """By other trials, at later steps, in other runs: with another spectrum too, where idle weights are free."""
    again = [one(1.0 + 1e-9 * n, replica=n, lambda_min=-1.0 - n, lambda_max=2.0 * n) for n in range(8)]
    others = [one(2.0), one(1.0, index=3), one(1.0001)]
    (row,) = rendered(tmp_path, [[*again, *others], [*again[:2], one(2.0)]]).rows
    assert (row["found"], row["points"]) == (14, 4)


def test_points_far_from_zero_are_told_apart_as_well(tmp_path: Path) -> None:
    """A surface's numbers are as large as theta is."""
    (row,) = rendered(tmp_path, [[point(0.0, 2, function=[8e5 + 0.1 * n, 1.0]) for n in range(40)]]).rows
    assert row["points"] == 40


def test_points_of_two_landscapes_are_two(tmp_path: Path) -> None:
    keys: list[dict[str, Any]] = [{"dataset": {"seed": n // 2}, "seed": n} for n in range(4)]
    summary = rendered(tmp_path, [[one(1.0)]] * 4, keys)
    assert [(row["found"], row["points"]) for row in summary.rows] == [(4, 2)]
    assert any("2 of 4 measurements met a point that another had met" in note for note in summary.notes)


def test_a_point_that_is_not_well_known_joins_what_it_cannot_be_told_from(tmp_path: Path) -> None:
    sure, unsure = one(1.0), {**one(1.0 + 2e-6), "function_error": 1e-4}
    far = {**one(1.1), "function_error": 10.0}  # but no row takes all others in
    (row,) = rendered(tmp_path, [[sure, unsure, far]]).rows
    assert row["points"] == 2


def test_the_correlation_is_that_of_points(tmp_path: Path) -> None:
    """Eighty rows of one point of high loss and index say no more than one does."""
    draws = np.random.default_rng(0)
    rows = [one(float(n), int(draws.integers(0, 4))) for n in range(20)]
    (alone,) = rendered(tmp_path / "alone", [[*rows, one(30.0, 9)]]).rows
    (crowded,) = rendered(tmp_path / "crowded", [[*rows, *[one(30.0, 9)] * 80]]).rows
    assert crowded["found"] == 100
    for name in ("points", "spearman", "spearman_low", "spearman_high", "minimum_share_high"):
        assert crowded[name] == alone[name]


def test_a_trial_that_stands_still_is_searched_from_once(tmp_path: Path) -> None:
    """A stopped trial at every later step; another start, replica or probe of the same place is a search of its own."""
    still = [one(5.0, step=n, origin=[1.0, 2.0], start=0, replica=0) for n in range(6)]
    moving = [one(6.0 + n, step=n, origin=[float(n), 0.0], start=0, replica=1) for n in range(4)]
    others = [one(5.0, origin=[1.0, 2.0], start=1, replica=0), one(5.0, origin=[1.0, 2.0], start=0, replica=2)]
    lost = {**one(9.0, step=7, origin=[1.0, 2.0], start=0, replica=0), "accepted": False, "kind": "not critical"}
    (row,) = rendered(tmp_path, [[*still, *moving, *others, lost]]).rows
    assert (row["measured"], row["searches"], row["accepted_share"], row["points"]) == (13, 7, 1.0, 5)


def test_points_of_an_older_version_are_told_apart_by_loss_and_spectrum(tmp_path: Path) -> None:
    ends = [(-1.0, 2.0), (-1.0, 2.0), (-1.5, 2.0), (-1.0, 2.5)]
    rows = [point(1.0, 2, lambda_min=low, lambda_max=high, function=None) for low, high in ends]
    summary = rendered(tmp_path, [rows])
    assert summary.rows[0]["points"] == 3
    assert any("without the column `function`" in note for note in summary.notes)


def test_an_estimated_index_is_compared_through_its_interval(tmp_path: Path) -> None:
    known = {"expected_loss": 1.0, "expected_index": 3.0}
    near = [point(1.0, 3, **known) | {"index": 3.4, "index_low": 2.5, "index_high": 4.0} for _ in range(9)]
    off = point(1.0, 3, **known) | {"index": 4.4, "index_low": 3.5, "index_high": 5.0}
    (row,) = rendered(tmp_path / "estimated", [[*near, off]]).rows
    assert (row["theory_share"], row["index_rms"]) == (0.9, None)
    counted = [point(1.0, 3, **known) | {"index_low": 3.0, "index_high": 3.0} for _ in range(5)]
    (row,) = rendered(tmp_path / "counted", [[*counted, *near]]).rows
    assert (row["theory_share"], row["index_rms"]) == (1.0, 0.0)


def test_a_degenerate_point_may_be_a_minimum(tmp_path: Path) -> None:
    rows = [point(1.0, 0), point(2.0, 3), point(3.0, 4), *[point(1.0, 0, kind="degenerate")] * 3]
    summary = rendered(tmp_path, [rows])
    (row,) = summary.rows
    assert (row["minimum"], row["saddle"], row["degenerate"], row["points"]) == (1, 2, 3, 6)
    assert row["minimum_share"] == pytest.approx(1 / 6)
    assert row["minimum_share_low"] < 1 / 6
    assert row["minimum_share_high"] > 4 / 6
    assert any(note.startswith("degenerate: no derivative up to the fourth") for note in summary.notes)
