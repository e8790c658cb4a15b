"""The cost report: seconds counted once a measurement, medians, shares, and the `every` for a tenth more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lossgeo import formats
from lossgeo.reports import Summary
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.cost import Cost
from lossgeo.tables import Row
from tests.support.synthetic import (
    density,
    eigenvalue,
    eigenvalues,
    id_of,
    network,
    recipe,
    tables_of_a_run,
    trace,
    write_run,
)

# 100 s for 1,000 steps, 20 s of them for probes: 0.08 s a step
CLOCK = {"seconds": 100.0, "probe_seconds": 20.0, "step": 1000}


def report(tmp_path: Path, tables: dict[str, list[Row]], **manifest: Any) -> Summary:
    write_run(tmp_path, id_of(0), recipe(), tables, **{**CLOCK, **manifest})
    return Cost().render(Study.open([tmp_path]))


def notes(answer: Summary) -> str:
    return " ".join(answer.notes)


def ten_pairs(seconds: list[float], **more: Any) -> list[Row]:
    """One measurement of ten rows for each of the seconds."""
    return [row for i, s in enumerate(seconds) for row in eigenvalues(100 * i, network(), 9, seconds=s, **more)]


def test_a_measurement_counts_once_however_many_rows_it_left(tmp_path: Path) -> None:
    answer = report(tmp_path, {"eigenvalues": ten_pairs([1.0, 2.0, 9.0], matvecs=30, gradient_seconds=0.1)})
    (row,) = answer.rows
    assert list(row) == [
        *("run", "probe", "measures", "operator", "parameters", "samples", "measurements", "failures"),
        *("seconds", "seconds_low", "seconds_high", "matvecs", "gradient_seconds", "gradient_equivalents"),
        *("total_seconds", "share", "overhead", "step_seconds", "every"),
    ]
    assert (row["probe"], row["measures"], row["operator"]) == ("eigenvalues", "eigenvalues", "hessian")
    assert (row["measurements"], row["failures"]) == (3, 0)
    assert (row["seconds"], row["seconds_low"], row["seconds_high"]) == (2.0, None, None), "of three measurements"
    assert (row["matvecs"], row["gradient_seconds"]) == (30, 0.1)
    assert row["gradient_equivalents"] == pytest.approx(20)
    assert (row["total_seconds"], row["share"]) == (12.0, 0.12)
    assert row["step_seconds"] == pytest.approx(0.08)
    assert row["overhead"] == pytest.approx(12 / 80)


def test_every_keeps_the_overhead_it_promises(tmp_path: Path) -> None:
    (row,) = report(tmp_path, {"eigenvalues": ten_pairs([2.0])}).rows
    assert row["every"] == math.ceil(2.0 / (0.1 * 0.08)) == 250
    assert row["seconds"] / (row["every"] * row["step_seconds"]) <= 0.1
    (generous,) = Cost(at_most=0.5).render(Study.open([tmp_path])).rows
    assert generous["every"] == 50


def test_the_note_says_how_to_choose_every(tmp_path: Path) -> None:
    tables = {"eigenvalues": ten_pairs([2.0], samples=1024), "trace": [trace(0, 1.0, 1.0, seconds=0.4)]}
    said = notes(report(tmp_path, tables))
    assert "overhead(every) = seconds / (every x step_seconds)" in said
    assert "eigenvalues of the hessian, 1,024 examples: every: 250" in said
    assert "trace of the hessian, 1,000 examples: every: 50." in said


def test_layers_are_one_measurement_and_their_products_add_up(tmp_path: Path) -> None:
    rows = [
        eigenvalue(step, 1.0, rank=rank, seconds=3.0, matvecs=10 * number, parameters=f"layers.{number}.*")
        for step in (0, 100)
        for number in (1, 2)
        for rank in range(4)
    ]
    (row,) = report(tmp_path, {"eigenvalues": rows}).rows
    assert (row["measurements"], row["seconds"], row["total_seconds"]) == (2, 3.0, 6.0)
    assert (row["parameters"], row["matvecs"]) == ("2 groups", 30)


def test_the_median_of_six_measurements_has_an_interval(tmp_path: Path) -> None:
    """Between order statistics; the quickest and the slowest of three held the median in three of four cases."""
    (row,) = report(tmp_path, {"eigenvalues": ten_pairs([1.0, 2.0, 9.0, 4.0, 3.0, 5.0])}).rows
    assert (row["seconds"], row["seconds_low"], row["seconds_high"]) == (3.5, 1.0, 9.0)


def test_replicas_and_probes_are_measurements_of_their_own(tmp_path: Path) -> None:
    rows = [eigenvalue(0, 1.0, seconds=1.0, replica=replica) for replica in (0, 1)]
    rows += [eigenvalue(0, 1.0, seconds=5.0, probe="eigenvalues-b")]
    first, second = report(tmp_path, {"eigenvalues": rows}).rows
    assert (first["probe"], first["measurements"], first["total_seconds"]) == ("eigenvalues", 2, 2.0)
    assert (second["probe"], second["measurements"], second["total_seconds"]) == ("eigenvalues-b", 1, 5.0)


def test_failures_cost_but_do_not_move_the_medians(tmp_path: Path) -> None:
    failed = {"step": 900, "probe": "eigenvalues", "seconds": 50.0, "failure": "MemoryError: "}
    answer = report(tmp_path, {"eigenvalues": [*ten_pairs([1.0, 2.0, 3.0]), failed]})
    (row,) = answer.rows
    assert (row["measurements"], row["failures"]) == (4, 1)
    assert (row["seconds"], row["total_seconds"]) == (2.0, 56.0)
    assert "1 measurements failed" in notes(answer)
    (alone,) = report(tmp_path / "alone", {"eigenvalues": [failed]}).rows
    assert alone["seconds"] is alone["every"] is alone["matvecs"] is alone["operator"] is None
    assert (alone["failures"], alone["total_seconds"]) == (1, 50.0)


def test_measurements_made_after_training_are_told_apart(tmp_path: Path) -> None:
    answer = report(tmp_path, {"eigenvalues": ten_pairs([10.0, 15.0])})
    assert "Measurements of 5 s were not made in training" in notes(answer)
    assert "not made in training" not in notes(report(tmp_path / "b", {"eigenvalues": ten_pairs([10.0, 10.5])}))


def test_without_a_clock_there_is_no_share(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(0), recipe(), {"eigenvalues": ten_pairs([1.0])}, seconds=None, probe_seconds=None, step=0)
    (row,) = Cost().render(Study.open([tmp_path])).rows
    assert row["seconds"] == 1.0
    assert row["share"] is row["overhead"] is row["step_seconds"] is row["every"] is None


def test_a_run_that_measured_nothing_keeps_its_row(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(0), recipe(seed=0), {"steps": tables_of_a_run(1.0)["steps"]})
    write_run(tmp_path, id_of(1), recipe(seed=1), tables_of_a_run(1.0))
    answer = Cost().render(Study.open([tmp_path]))
    assert [(row["seed"], row["probe"]) for row in answer.rows] == [(0, None), (1, "eigenvalues"), (1, "trace")]
    assert "1 of 2 runs measured nothing." in notes(answer)


def test_a_table_that_no_probe_filled_is_left_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path, id_of(0), recipe(), {"trace": [trace(0, 1.0, 1.0)]})
    pd.DataFrame({"run": ["x"], "value": [1.0]}).to_parquet(folder / "mine.parquet")
    assert [row["probe"] for row in Cost().render(Study.open([tmp_path])).rows] == ["trace"]


@pytest.mark.parametrize("runs", [1, 7])
def test_the_figure_shows_every_probe(runs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(runs):
        tables = {
            "eigenvalues": ten_pairs(rng.uniform(1, 2, 3).tolist()) + ten_pairs([4.0], probe="eigenvalues-b"),
            "trace": [trace(0, 1.0, 1.0)],
            "density": density(0, network(), vectors=1, steps=4),
        }
        write_run(tmp_path, id_of(number), recipe(seed=number), tables, **CLOCK)
    answer = Cost().render(Study.open([tmp_path]))
    assert answer.draw is not None
    figure = answer.draw()
    assert isinstance(figure, Figure)
    words = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert words == [
        "density of the hessian, 1,000 examples",
        "eigenvalues of the hessian, 1,000 examples (eigenvalues)",
        "eigenvalues of the hessian, 1,000 examples (eigenvalues-b)",
        "trace of the hessian, 1,000 examples",
    ]
    assert formats.figure(answer, "png").startswith(b"\x89PNG")
