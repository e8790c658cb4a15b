"""Of several measurements of one thing the best counts, step by step, and none hides another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossgeo import formats
from lossgeo.errors import UsageError
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.curves import Curves
from lossgeo.reports.plateaus import Plateaus
from lossgeo.reports.runs import Runs
from lossgeo.reports.sharpness import Sharpness
from lossgeo.reports.spectrum import Spectrum
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

TRAINED = "eigenvalues-m"  # sorts between the others: which of them is first says nothing


def study(out: Path, rows: list[Row], table: str = "eigenvalues", **changes: Any) -> Study:
    write_run(out, id_of(1), recipe(**changes), {**tables_of_a_run(1.0), table: rows})
    return Study.open([out])


def curve(out: Path, rows: list[Row], **changes: Any) -> list[tuple[Any, ...]]:
    """Step, lambda_max, probe, samples."""
    found = Curves(**changes).render(study(out, rows)).rows
    columns = ("step", "lambda_max", "lambda_max_probe", "lambda_max_samples")
    return [tuple(row[name] for name in columns) for row in found if row["lambda_max"] is not None]


@pytest.mark.parametrize("later", ["eigenvalues-a", "eigenvalues-z"])
@pytest.mark.parametrize("at", [0, 7, 30])
def test_a_later_probe_at_one_step_hides_no_other_step(at: int, later: str, tmp_path: Path) -> None:
    trained = [eigenvalue(step, 1.0 + step, probe=TRAINED) for step in range(31)]
    better = eigenvalues(at, np.array([1.0 + at, 0.5, 0.2, -0.1]), top=3, probe=later, bound=1e-9)
    found = curve(tmp_path, [*trained, *better])
    assert [row[:2] for row in found] == [(step, 1.0 + step) for step in range(31)]
    assert [row[2] for row in found] == [later if step == at else TRAINED for step in range(31)]


@pytest.mark.parametrize("report", [Curves, Runs, Sharpness, Spectrum])
def test_every_report_shows_the_better_of_two(report: type[Any], tmp_path: Path) -> None:
    for number, (a, b) in enumerate((("a", "z"), ("z", "a"))):
        rows = [
            eigenvalue(200, 3.0, probe=a, bound=1e-2, residual=1e-1),
            eigenvalue(200, 3.005, probe=b, bound=1e-8, residual=1e-4),
        ]
        traces = [trace(200, 9.0, 4.0, stderr=1.0, probe=a), trace(200, 10.0, 4.0, stderr=0.1, probe=b)]
        folder = tmp_path / str(number)
        write_run(folder, id_of(1), recipe(), {**tables_of_a_run(1.0), "eigenvalues": rows, "trace": traces})
        row = report().render(Study.open([folder])).rows[-1]
        assert (row["lambda_max"], row["trace"]) == (3.005, 10.0)
        row = report(probe=a).render(Study.open([folder])).rows[-1]
        assert (row["lambda_max"], row["trace"]) == (3.0, 9.0)


def test_the_whole_beats_a_sample_whatever_its_bound(tmp_path: Path) -> None:
    rows = [
        eigenvalue(100, 9.0, probe="a", samples=256, bound=1e-12, low=5.0, high=10.0),
        eigenvalue(200, 9.5, probe="a", samples=256, bound=1e-12),
        eigenvalue(200, 7.0, probe="b", samples=1000, bound=1e-2),
    ]
    assert curve(tmp_path, rows) == [(100, 9.0, "a", 256), (200, 7.0, "b", 1000)]


def test_a_list_that_misses_a_copy_does_not_displace_it(tmp_path: Path) -> None:
    """Krylov spaces from one vector hold one copy of 3: their list is 3, 2, 1, and every bound of it is tiny."""
    missing = eigenvalues(200, np.array([3.0, 2.0, 1.0, -1.0]), top=3, probe="a", bound=1e-14)
    complete = eigenvalues(200, np.array([3.0, 3.0, 3.0, 2.0, -1.0]), top=4, probe="b", bound=1e-6)
    rows = study(tmp_path, [*missing, *complete]).measured("eigenvalues", "hessian")
    top = rows[rows["end"] == "top"].sort_values("rank")
    assert top["eigenvalue"].tolist() == [3.0, 3.0, 3.0, 2.0]
    assert top["probe"].tolist() == ["a", "b", "b", "b"]
    assert rows.loc[rows["end"] == "bottom", "eigenvalue"].tolist() == [-1.0]


def test_each_end_is_of_the_probe_that_looked_there(tmp_path: Path) -> None:
    top = [eigenvalue(200, 5.0, probe="a", bound=1e-9)]
    bottom = [{**row, "end": "bottom"} for row in (eigenvalue(200, -2.0, probe="b", samples=500),)]
    (row,) = Spectrum().render(study(tmp_path, [*top, *bottom])).rows
    assert (row["lambda_max"], row["lambda_min"]) == (5.0, -2.0)


def test_precision_counts_through_the_error(tmp_path: Path) -> None:
    """In float32 a value is off by some 1e-6 of itself, which bounds of older tables leave out."""
    rows = [
        eigenvalue(200, 2.4586302, probe="a", precision="float32", bound=1e-9),
        eigenvalue(200, 2.4586291, probe="b", precision="float64", bound=1e-8),
    ]
    assert curve(tmp_path, rows) == [(200, 2.4586291, "b", 1000)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"batch_norm": "batch"}, {"batch_norm": "eval"}),
        ({"settings": '{"centered": false}'}, {"settings": '{"centered": true}'}),
        ({"settings": '{"of": {"name": "hessian"}}'}, {"settings": '{"of": {"name": "gauss_newton"}}'}),
    ],
)
def test_other_maps_are_not_mixed(one: Row, other: Row, tmp_path: Path) -> None:
    trained = [eigenvalue(step, 1.0, probe=TRAINED, **one) for step in (0, 100, 200)]
    later = [eigenvalue(step, 5.0, probe="a", bound=1e-12, samples=2000, **other) for step in (100, 200)]
    failed = {"step": 50, "probe": "a", "failure": "RuntimeError: out of memory"}
    rows = [*trained, *later, failed]
    assert [row[:2] for row in curve(tmp_path / "a", rows)] == [(0, 1.0), (100, 1.0), (200, 1.0)]
    assert [row[:2] for row in curve(tmp_path / "b", rows, probe="a")] == [(100, 5.0), (200, 5.0)]


def test_other_operators_and_parameters_stay_apart(tmp_path: Path) -> None:
    rows = [
        eigenvalue(200, 1.0, probe="a"),
        eigenvalue(200, 2.0, probe="b", operator="fisher", bound=1e-12),
        eigenvalue(200, 3.0, probe="c", parameters="layers.0.*", bound=1e-12),
    ]
    assert curve(tmp_path, rows) == [(200, 1.0, "a", 1000)]


def test_a_failure_counts_only_where_no_other_probe_succeeded(tmp_path: Path) -> None:
    failed = {"probe": "a", "failure": "RuntimeError: out of memory"}
    rows = [eigenvalue(0, 1.0, probe="a"), {"step": 100, **failed}, {"step": 200, **failed}]
    found = study(tmp_path, [*rows, eigenvalue(200, 2.0, probe="b")])
    top = found.top_eigenvalues("hessian").set_index("step")
    assert top["failure"].isna().tolist() == [True, False, True]
    assert top.loc[200, "lambda_max"] == 2.0
    (row,) = Sharpness().render(found).rows
    assert (row["used"], row["missing"], row["lambda_max"]) == (1, 0, 2.0)


def test_the_finer_density_counts_whole(tmp_path: Path) -> None:
    coarse = density(200, network(), vectors=2, probe="a")
    fine = density(200, network(), vectors=6, probe="b")
    sampled = density(200, network(), vectors=9, probe="c", samples=100)
    rows = study(tmp_path, [*coarse, *fine, *sampled], "density").measured("density", "hessian")
    assert set(rows["probe"]) == {"b"}
    assert len(rows) == len(fine)


def test_trials_are_merged_one_by_one(tmp_path: Path) -> None:
    rows = [eigenvalue(200, 4.0, probe="a", replica=number) for number in range(3)]
    rows[2] = {"step": 200, "replica": 2, "probe": "a", "failure": "RuntimeError: out of memory"}
    rows += [eigenvalue(200, 4.0, probe="b", replica=number, bound=1e-3) for number in range(3)]
    write_run(tmp_path, id_of(1), recipe(replicas=3), {"eigenvalues": rows})
    found = Study.open([tmp_path])
    (top,) = found.top_eigenvalues("hessian").to_dict("records")
    assert (top["lambda_max"], top["lambda_max_probe"]) == (4.0, "a, b")


def test_a_probe_that_measured_nothing_is_refused_by_name(tmp_path: Path) -> None:
    found = study(tmp_path, [eigenvalue(200, 1.0, probe="a")])
    for report in (Curves, Runs, Sharpness, Spectrum):
        with pytest.raises(UsageError, match=r"probe: 'nonsense' measured no hessian of \*; a, trace did"):
            report(probe="nonsense").render(found)


def test_plateaus_of_another_definition_are_not_added(tmp_path: Path) -> None:
    def rows(probe: str, times: int) -> list[Row]:
        seen = [{"step": step, "replica": 0, "probe": probe, "gradient_norm": 1.0} for step in range(times)]
        found = {"number": 0, "start_step": 2, "last_step": 8, "censored": False, "strict": True, "lambda_min": -1.0}
        return [*seen, {"step": times, "replica": 0, "probe": probe, "gradient_norm": 1.0, **found}]

    found = study(tmp_path, [*rows("a", 5), *rows("b", 9)], "plateaus")
    (row,) = Plateaus().render(found).rows
    assert (row["plateaus"], row["probe"]) == (1, "b")
    (row,) = Plateaus(probe="a").render(found).rows
    assert (row["plateaus"], row["probe"]) == (1, "a")


def test_numbers_of_one_run_are_printed_to_the_error_of_measuring(tmp_path: Path) -> None:
    """Between runs nothing is known, but no more digits are printed than the probes' errors support."""
    rows = [eigenvalue(200, 2.4586246, residual=2e-2)]
    write_run(tmp_path, id_of(1), recipe(), {"eigenvalues": rows, "trace": [trace(200, 15.643556, 1.0, stderr=5.0)]})
    (row,) = Sharpness().render(Study.open([tmp_path])).rows
    assert row["lambda_max_low"] is row["trace_low"] is None
    assert (row["lambda_max_error"], row["trace_error"]) == pytest.approx((0.02, 9.8))
    shown = formats.markdown([row])
    assert "| 2.459 ± 0.020 |" in shown
    assert "| 15.6 ± 9.8 |" in shown
