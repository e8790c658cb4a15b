"""Conformance of every report in the folder, and the numbers of each against known truth."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import lossgeo.reports
from lossgeo import formats
from lossgeo.components.component import summary
from lossgeo.components.finding import find, names
from lossgeo.errors import NothingToReport, UsageError
from lossgeo.reports import Report, Summary
from lossgeo.reports.analysis.intervals import mean
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.curves import Curves
from lossgeo.reports.runs import Runs
from lossgeo.reports.sharpness import Sharpness
from tests.support.house import imported
from tests.support.synthetic import eigenvalue, id_of, network, recipe, spectral, tables_of_a_run, trace, write_run

REPORTS = names(Report)


def bare(out: Path) -> None:
    write_run(out, id_of(1), recipe(seed=1))
    write_run(out, id_of(2), recipe(seed=2))


def one(out: Path) -> None:
    write_run(out, id_of(1), recipe(), tables_of_a_run(3.0))


def unfinished(out: Path) -> None:
    states = {
        "running": None,
        "failed": "OSError: disk full",
        "stopped": "SIGTERM",
        "diverged": "loss is not finite",
        "done": None,
    }
    for number, (status, reason) in enumerate(states.items()):
        tables = tables_of_a_run(3.0) if status != "failed" else {}
        write_run(out, id_of(number), recipe(seed=number), tables, status=status, reason=reason)


def broken_numbers(out: Path) -> None:
    tables = tables_of_a_run(float("nan"), train_loss=float("inf"), accuracy=None)
    write_run(out, id_of(1), recipe(batch_size=16), tables, status="diverged", data=None)
    failed = {"step": 200, "probe": "eigenvalues", "failure": "RuntimeError: out of memory"}
    write_run(out, id_of(2), recipe(batch_size="full"), {"eigenvalues": [failed]}, data=None)


def surface(out: Path) -> None:
    asked = {"name": "saddle", "surface": {"name": "octopus", "dimension": 5}, "optimizer": {"name": "sgd", "lr": 0.1}}
    write_run(out, id_of(1), asked, tables_of_a_run(3.0, accuracy=None))


def many_settings(out: Path) -> None:
    number = 0
    for lr in np.linspace(0.01, 0.2, 10):
        for size in (16, "full"):
            number += 1
            write_run(
                out,
                id_of(number),
                recipe(optimizer={"lr": float(lr)}, batch_size=size),
                tables_of_a_run(3.0, lr=float(lr)),
            )


def measured(out: Path) -> None:
    """Spectra whole and by layers, of a sample, and one that failed."""
    tables = tables_of_a_run(3.0)
    failed = {"step": 100, "probe": "density", "seconds": 2.0, "failure": "MemoryError: "}
    tables |= spectral(200, network(), low=3.0, high=5.0, samples=100)
    tables["density"] += [failed, *spectral(200, network(), part=1, samples=100)["density"]]
    for number in (0, 2):
        layer = spectral(200, network()[:50], probe="layers", parameters=f"layers.{number}.*")
        tables = {name: [*rows, *layer.get(name, [])] for name, rows in tables.items()}
    write_run(out, id_of(1), recipe(seed=1), tables)
    write_run(out, id_of(2), recipe(seed=2), spectral(200, network(seed=1)))


STUDIES = [bare, one, unfinished, broken_numbers, surface, many_settings, measured]


def open_study(tmp_path: Path, write: Callable[[Path], None]) -> Study:
    write(tmp_path)
    return Study.open([tmp_path])


def test_the_folder_holds_the_reports_that_users_rely_on() -> None:
    assert {"cost", "curves", "runs", "sharpness", "spectrum"} <= set(REPORTS)
    assert all(summary(find(Report, name)) for name in REPORTS)


@pytest.mark.parametrize("write", STUDIES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", REPORTS)
def test_every_report_answers_for_every_study(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    answer = find(Report, name)().render(open_study(tmp_path, write))
    assert answer.title
    assert len(answer.rows) > 0
    assert {tuple(row) for row in answer.rows} == {tuple(answer.rows[0])}
    for row in answer.rows:
        assert all(type(value) in (str, int, float, bool, type(None)) for value in row.values()), row
        assert all(f"{key[:-4]}_high" in row and key[:-4] in row for key in row if key.endswith("_low"))
    assert json.loads(json.dumps(answer.rows, allow_nan=False)) == list(answer.rows)
    assert all(note.endswith(".") for note in answer.notes)
    for text in formats.FORMATS.values():
        assert text(answer.rows)
    assert formats.html(answer, "lossgeo report").startswith("<!DOCTYPE html>")
    if answer.draw is not None:
        assert isinstance(answer.draw(), Figure)
        assert formats.figure(answer, "png").startswith(b"\x89PNG")


def test_reports_never_import_torch_and_matplotlib_only_to_draw(tmp_path: Path) -> None:
    one(tmp_path)
    code = f"""
import sys
from pathlib import Path
from lossgeo import formats
from lossgeo.components.finding import find, names
from lossgeo import Report, Study
study = Study.open([Path({str(tmp_path)!r})])
answers = [find(Report, name)().render(study) for name in names(Report)]
texts = [text(answer.rows) for answer in answers for text in formats.FORMATS.values()]
assert "matplotlib" not in sys.modules
pages = [formats.html(answer, "") for answer in answers]
assert "torch" not in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_matplotlib_is_imported_by_figures_alone() -> None:
    folder = Path(lossgeo.reports.__file__).parent
    drawing = {
        str(file.relative_to(folder).parent)
        for file in folder.rglob("*.py")
        if any(name.split(".")[0] == "matplotlib" for name in imported(ast.parse(file.read_text())))
    }
    assert drawing == {"figures"}


# --- sharpness -------------------------------------------------------------------------------------------------------


def sweep(
    out: Path, law: Callable[[int, int], float], sizes: tuple[Any, ...] = (16, 64, 256, "full"), **changes: Any
) -> None:
    """Four batch sizes x five seeds with lambda_max = law(size, seed)."""
    begin = len(list(out.rglob("run.json")))
    for number, (size, seed) in enumerate((size, seed) for size in sizes for seed in range(5)):
        value = law(1000 if size == "full" else size, seed)
        write_run(out, id_of(begin + number), recipe(batch_size=size, seed=seed, **changes), tables_of_a_run(value))


def notes(answer: Summary) -> str:
    return " ".join(answer.notes)


def test_a_power_law_gives_its_exponent(tmp_path: Path) -> None:
    sweep(tmp_path, lambda size, seed: (1 + seed / 10) * size**0.5)
    answer = Sharpness().render(Study.open([tmp_path]))
    assert [row["batch_size"] for row in answer.rows] == [16, 64, 256, 1000]
    first = answer.rows[0]
    assert (first["runs"], first["used"], first["diverged"], first["missing"], first["unconverged"]) == (5, 5, 0, 0, 0)
    assert first["lambda_max"] == pytest.approx(4 * 1.2)
    expected = mean([4 * (1 + s / 10) for s in range(5)])
    assert (first["lambda_max_low"], first["lambda_max_high"]) == (expected.low, expected.high)
    assert first["trace"] == pytest.approx(5 * 4 * 1.2)
    assert first["train_loss"] == pytest.approx(0.1)
    assert first["test_accuracy"] == pytest.approx(0.95)
    assert first["step"] == 200
    for row in answer.rows:
        assert (row["slope"], row["slope_low"], row["slope_high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert "batch_size^0.50 [0.50, 0.50]: mean over 5 seeds" in notes(answer)


def test_other_settings_have_slopes_of_their_own(tmp_path: Path) -> None:
    sweep(tmp_path, lambda size, _: size**0.5)
    sweep(tmp_path, lambda size, _: size**-0.25, optimizer={"name": "adam"})
    rows = Sharpness().render(Study.open([tmp_path])).rows
    assert len(rows) == 8
    assert {row["optimizer.name"]: round(row["slope"], 9) for row in rows} == {"sgd": 0.5, "adam": -0.25}


def test_a_setting_that_goes_with_the_batch_size_does_not_split_the_slope(tmp_path: Path) -> None:
    for size in (16, 64):
        begin = len(list(tmp_path.rglob("run.json")))
        for seed in range(5):
            write_run(
                tmp_path,
                id_of(begin + seed),
                recipe(batch_size=size, seed=seed, steps=size),
                tables_of_a_run(size**0.5),
            )
    answer = Sharpness().render(Study.open([tmp_path]))
    assert [(row["batch_size"], row["steps"], row["runs"]) for row in answer.rows] == [(16, 16, 5), (64, 64, 5)]
    assert answer.rows[0]["slope"] == pytest.approx(0.5)
    assert "steps tied to batch_size" in notes(answer)


def test_every_run_is_used_diverged_or_missing_with_its_reason(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = [
        {},
        {"status": "diverged"},
        {"status": "running", "step": 100},
        {"status": "failed"},
    ]
    for number, state in enumerate(states):
        write_run(tmp_path, id_of(number), recipe(seed=number), tables_of_a_run(2.0), **state)
    write_run(tmp_path, id_of(4), recipe(seed=4))
    failed = {"step": 200, "probe": "eigenvalues", "failure": "RuntimeError: out of memory"}
    write_run(tmp_path, id_of(5), recipe(seed=5), {"eigenvalues": [eigenvalue(100, 7.0), failed]})
    answer = Sharpness().render(Study.open([tmp_path]))
    (row,) = answer.rows
    assert (row["runs"], row["used"], row["diverged"], row["missing"]) == (6, 1, 1, 4)
    assert row["lambda_max"] == 2.0
    assert row["lambda_max_low"] is None
    for reason in (
        "1 of 6 runs diverged",
        "4 of 6 runs are missing",
        "1 x running at step 100 of 200",
        "1 x no top eigenvalue of the hessian was measured",
        "1 x the probe failed: RuntimeError: out of memory",
        "Means over runs: no intervals, n = 1: below 3 there are none.",
    ):
        assert reason in notes(answer)


def test_a_group_that_diverged_whole_keeps_its_row(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(batch_size=16), tables_of_a_run(2.0))
    write_run(tmp_path, id_of(2), recipe(batch_size=64), tables_of_a_run(2.0), status="diverged")
    second = Sharpness().render(Study.open([tmp_path])).rows[1]
    assert (second["batch_size"], second["runs"], second["used"], second["diverged"]) == (64, 1, 0, 1)
    assert second["lambda_max"] is second["train_loss"] is second["step"] is None


def test_an_earlier_step_can_be_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(seed=1), tables_of_a_run(22.0))
    write_run(tmp_path, id_of(2), recipe(seed=2), tables_of_a_run(22.0), status="running", step=150)
    (row,) = Sharpness(step=120).render(Study.open([tmp_path])).rows
    assert (row["used"], row["step"]) == (2, 100)
    assert row["lambda_max"] == pytest.approx(21.6)
    assert row["train_loss"] == pytest.approx(0.3)


def test_unequal_train_losses_and_unconverged_values_are_said(tmp_path: Path) -> None:
    for number, (size, loss) in enumerate([(16, 0.10), (64, 0.12)]):
        tables = tables_of_a_run(2.0, train_loss=loss)
        tables["eigenvalues"][2]["converged"] = number == 0
        write_run(tmp_path, id_of(number), recipe(batch_size=size), tables)
    answer = Sharpness().render(Study.open([tmp_path]))
    assert [row["unconverged"] for row in answer.rows] == [0, 1]
    assert answer.rows[0]["train_loss_ratio"] == pytest.approx(1.2)
    assert "factor 1.2: sharpness at unequal loss means little" in notes(answer)
    assert "1 of 2 eigenvalues had not converged" in notes(answer)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (2, "no intervals, n = 2: below 3 there are none"),
        (3, "95% t intervals, n = 3"),
        (10, "95% t intervals, n = 10"),
    ],
)
def test_the_picture_and_the_note_say_of_how_many_runs_a_mean_is(seeds: int, words: str, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for number, (size, seed) in enumerate((size, seed) for size in (16, 64) for seed in range(seeds)):
        tables = tables_of_a_run(float(size * draws.lognormal(0, 0.5)), accuracy=0.9 + draws.normal(0, 0.01))
        write_run(tmp_path, id_of(number), recipe(batch_size=size, seed=seed), tables)
    answer = Sharpness().render(Study.open([tmp_path]))
    assert f"Means over runs: {words}." in answer.notes
    assert answer.draw is not None
    figure = answer.draw()
    assert figure.get_supxlabel().endswith(f"large: means, {words}")
    (bars,) = figure.axes[0].containers
    drawn = [segment for segment in bars.lines[2][0].get_segments() if len(segment) and np.isfinite(segment).all()]
    assert len(drawn) == (0 if seeds < 3 else 2)
    assert all((row["lambda_max_low"] is None) == (seeds < 3) for row in answer.rows)
    assert answer.rows[0]["slope_low"] is None or seeds >= 3


# --- curves and runs -------------------------------------------------------------------------------------------------


def test_curves_join_what_was_measured_at_each_step(tmp_path: Path) -> None:
    tables = tables_of_a_run(22.0)
    tables["eigenvalues"] = [eigenvalue(50, 11.0), *tables["eigenvalues"][:3]]
    for row in tables["steps"]:
        row["threshold"] = 20.0 if row["step"] < 100 else 200.0
    write_run(tmp_path, id_of(1), recipe(seed=1), tables)
    write_run(tmp_path, id_of(2), recipe(seed=2))
    answer = Curves().render(Study.open([tmp_path]))
    steps = [(row["seed"], row["step"], row["lambda_max"], row["threshold"]) for row in answer.rows]
    assert steps == [
        (1, 0, pytest.approx(17.6), None),  # no step was logged before
        (1, 50, 11.0, 20.0),
        (1, 100, pytest.approx(21.6), None),  # between two that were, and the rate fell there
        (1, 200, 22.0, 200.0),
        (2, None, None, None),
    ]
    assert answer.rows[1]["train_loss"] is None
    assert answer.rows[3]["test_loss"] == pytest.approx(0.13)
    assert "1 of 2 runs have neither" in notes(answer)


def test_curves_have_the_intervals_that_the_tables_have(tmp_path: Path) -> None:
    tables = tables_of_a_run(22.0)
    tables["eigenvalues"] = [eigenvalue(100, 4.0, low=3.0, high=5.0, samples=64), eigenvalue(200, 6.0)]
    tables["trace"] = [trace(200, 9.0, 16.0, stderr=1.0)]
    write_run(tmp_path, id_of(1), recipe(), tables)
    answer = Curves().render(Study.open([tmp_path]))
    numbers = [tuple(row[f"lambda_max{end}"] for end in ("", "_low", "_high")) for row in answer.rows]
    assert numbers == [(None, None, None), (4.0, 3.0, 5.0), (6.0, 6.0 - 1e-4, 6.0 + 1e-4)]
    assert [row["trace"] for row in answer.rows] == [None, None, 9.0]
    assert (answer.rows[2]["trace_low"], answer.rows[2]["trace_high"]) == pytest.approx((7.04, 10.96))
    assert answer.draw is not None
    *_, largest, of_trace = answer.draw().axes
    (band,) = largest.collections
    assert band.get_paths()[0].get_extents().extents.tolist() == [100, 3, 200, 6.0 + 1e-4]
    assert [axis.get_title(loc="left") for axis in (largest, of_trace)] == [
        "largest eigenvalue, hessian",
        "trace, hessian",
    ]


def layered(out: Path) -> None:
    """The whole, and a layer that another probe measured before it in the table's order."""
    tables = tables_of_a_run(9.0)
    tables["eigenvalues"] += [
        eigenvalue(200, 2.0, probe="a-layers", parameters="layers.0.*"),
        eigenvalue(200, 1.0, probe="a-layers", parameters="layers.2.*"),
    ]
    tables["trace"] += [trace(200, 3.0, 1.0, probe="a-layers", parameters="layers.0.*")]
    write_run(out, id_of(1), recipe(), tables)


def test_reports_are_about_all_parameters_unless_asked(tmp_path: Path) -> None:
    layered(tmp_path)
    study = Study.open([tmp_path])
    assert (Sharpness().render(study).rows[0]["lambda_max"], Sharpness().render(study).rows[0]["trace"]) == (9.0, 45.0)
    layer = Sharpness(parameters="layers.0.*").render(study).rows[0]
    assert (layer["lambda_max"], layer["trace"]) == (2.0, 3.0)
    assert [row["lambda_max"] for row in Curves().render(study).rows] == [
        pytest.approx(7.2),
        pytest.approx(9 * (1 - 0.4 / 22)),
        9.0,
    ]
    assert [row["lambda_max"] for row in Curves(parameters="layers.2.*").render(study).rows] == [None, None, 1.0]
    assert Runs().render(study).rows[0]["lambda_max"] == 9.0
    assert not any("choose with `probe`" in note for note in Curves().render(study).notes)


def test_a_failure_counts_where_its_probe_may_have_measured(tmp_path: Path) -> None:
    rows = [
        eigenvalue(100, 9.0),
        eigenvalue(100, 2.0, probe="layers", parameters="layers.0.*"),
        {"step": 200, "probe": "layers", "failure": "MemoryError: "},
        {"step": 200, "probe": "other", "failure": "RuntimeError: "},
    ]
    write_run(tmp_path, id_of(1), recipe(), {"eigenvalues": rows})
    study = Study.open([tmp_path])
    whole, layer = (study.measured("eigenvalues", "hessian", group) for group in ("*", "layers.0.*"))
    assert list(whole["probe"]) == ["eigenvalues", "other"]
    assert list(layer["probe"]) == ["layers", "layers", "other"]
    assert set(layer["parameters"]) == {"layers.0.*"}
    assert len(study.measured("eigenvalues", "hessian", None)) == 4


def test_curves_are_colored_by_a_swept_setting_only(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(), tables_of_a_run(1.0))
    with pytest.raises(UsageError, match="batch_size"):
        Curves(color="batch_size").render(Study.open([tmp_path]))


def test_runs_shows_every_run_with_its_last_numbers(tmp_path: Path) -> None:
    unfinished(tmp_path)
    answer = Runs().render(Study.open([tmp_path]))
    assert [row["status"] for row in answer.rows] == ["running", "failed", "stopped", "diverged", "done"]
    failed, done = answer.rows[1], answer.rows[4]
    assert failed["reason"] == "OSError: disk full"
    assert failed["lambda_max"] is failed["train_loss"] is None
    assert (done["lambda_max"], done["trace"], done["test_accuracy"]) == pytest.approx((3.0, 15.0, 0.95))
    assert Path(done["folder"]).is_dir()
    assert list(answer.rows[0])[:3] == ["run", "seed", "status"]


def test_curves_of_runs_without_any_evaluation_say_that_there_is_nothing(tmp_path: Path) -> None:
    steps = [{"step": step, "loss": 1.0, "lr": 0.1, "threshold": 20.0, "threshold_of": "hessian"} for step in range(3)]
    write_run(tmp_path, "1", recipe(), {"steps": steps, "evaluations": []})
    write_run(tmp_path, "2", recipe(seed=1), {"steps": steps})
    answer = Curves().render(Study.open([tmp_path]))
    assert [(row["step"], row["train_loss"]) for row in answer.rows] == [(None, None)] * 2
    assert answer.empty
    assert "2 of 2 runs have neither an evaluation nor an eigenvalue nor a trace." in answer.notes


@pytest.mark.parametrize("name", names(Report))
def test_only_what_training_tells_is_reported_of_runs_that_measured_nothing(name: str, tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(), {"evaluations": tables_of_a_run(1.0)["evaluations"]})
    answer = find(Report, name)().render(Study.open([tmp_path]))
    assert answer.empty == (name not in ("runs", "curves", "endings"))
    if answer.empty:
        with pytest.raises(NothingToReport, match=f"{re.escape(answer.title)}: there is nothing to report\\. ."):
            answer.required()
