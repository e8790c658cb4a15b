"""Numbers of one row are over the same trials, and all others are counted: from tables whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossgeo.reports.analysis.study import Study
from lossgeo.reports.curves import Curves
from lossgeo.reports.endings import Endings
from lossgeo.reports.runs import Runs
from lossgeo.reports.sharpness import Sharpness
from lossgeo.reports.spectrum import Spectrum
from lossgeo.tables import Row
from tests.support.program import frame, manifest, trained
from tests.support.synthetic import eigenvalue, id_of, recipe, trace, write_run

COUNTS = ("trials", "used", "diverged", "failed")
MEANS = ("train_loss", "test_loss", "test_accuracy", "lambda_max", "trace")


def evaluated(step: int, trial: int, loss: float, **more: Any) -> list[Row]:
    shared = {"step": step, "replica": trial, "accuracy": trial / 100, **more}
    return [{**shared, "split": "train", "loss": loss}, {**shared, "split": "test", "loss": 2 * loss}]


def forty(**changes: Any) -> dict[str, list[Row]]:
    """40 trials of loss r + 1, lambda_max 10 r, trace 100 r; every third diverged between steps 100 and 200.

    A trial that diverged is evaluated no more, and its curvature is 1e6 where it stands.
    """
    here = [(step, r) for step in (0, 100, 200) for r in range(40)]
    lost = {(200, r) for r in range(0, 40, 3)}
    large = {at: 1e6 if at in lost else 10.0 * at[1] for at in here}
    return {
        "evaluations": [row for step, r in here if (step, r) not in lost for row in evaluated(step, r, r + 1.0)],
        "eigenvalues": [eigenvalue(step, large[step, r], replica=r) for step, r in here],
        "trace": [trace(step, 10 * large[step, r], 1.0, replica=r) for step, r in here],
        **changes,
    }


def expected(trials: list[int]) -> list[Any]:
    r = float(np.mean(trials))
    return [pytest.approx(x) for x in (r + 1, 2 * r + 2, r / 100, 10 * r, 100 * r)]


def rows_of(out: Path, tables: dict[str, list[Row]], **facts: Any) -> tuple[Row, Row, Row]:
    """The last row of curves, and those of runs and sharpness."""
    write_run(out, id_of(1), recipe(replicas=40), tables, **facts)
    study = Study.open([out])
    (of_run,), (of_size,) = Runs().render(study).rows, Sharpness().render(study).rows
    return Curves().render(study).rows[-1], of_run, of_size


RECORD = {"trials": {"diverged": {str(r): 150 + r for r in range(0, 40, 3)}}}


@pytest.mark.parametrize("facts", [RECORD, {}], ids=["recorded", "older"])
def test_every_number_of_a_row_is_over_the_trials_that_survived(facts: dict[str, Any], tmp_path: Path) -> None:
    left = [r for r in range(40) if r % 3]
    curve, run, size = rows_of(tmp_path, forty(), **facts)
    for row in (curve, run):
        assert [row[name] for name in COUNTS] == [40, 26, 14, 0]
        assert [row[name] for name in MEANS] == expected(left)
    assert [size[name] for name in ("runs", "used", "trials", "trials_used", "diverged")] == [1, 1, 40, 26, 14]
    assert [size[name] for name in MEANS if name != "test_loss"] == [
        x for x in expected(left) if x != expected(left)[1]
    ]


def test_at_an_earlier_step_those_count_that_were_on_their_way(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(replicas=40), forty(), **RECORD)
    rows = Curves().render(Study.open([tmp_path])).rows
    assert [[row[name] for name in COUNTS] for row in rows] == [[40, 40, 0, 0], [40, 40, 0, 0], [40, 26, 14, 0]]
    assert [rows[1][name] for name in MEANS] == expected(list(range(40)))
    # one whose step 100 broke it counts there, as it was evaluated before that step
    broken = {"trials": {"diverged": {"0": 100, "1": 99}}}
    write_run(tmp_path / "b", id_of(2), recipe(replicas=40), forty(), **broken)
    row = Curves().render(Study.open([tmp_path / "b"])).rows[1]
    assert (row["used"], row["diverged"]) == (39, 1)


def test_a_probe_that_failed_in_some_trials_takes_them_out_of_every_number(tmp_path: Path) -> None:
    tables = forty()
    failed = {"probe": "trace", "failure": "RuntimeError: out of memory"}
    tables["trace"] = [
        {"step": row["step"], "replica": row["replica"], **failed} if row["replica"] in (1, 2) else row
        for row in tables["trace"]
    ]
    left = [r for r in range(40) if r % 3 and r not in (1, 2)]
    curve, run, size = rows_of(tmp_path, tables, **RECORD)
    for row in (curve, run):
        assert [row[name] for name in COUNTS] == [40, 24, 14, 2]
        assert [row[name] for name in MEANS] == expected(left)
    assert (size["trials_used"], size["diverged"]) == (24, 14)


def test_a_probe_that_failed_in_all_takes_out_none(tmp_path: Path) -> None:
    failed = {"probe": "trace", "failure": "RuntimeError: out of memory"}
    tables = forty(trace=[{"step": 200, "replica": r, **failed} for r in range(40)])
    _, run, _ = rows_of(tmp_path, tables, **RECORD)
    assert [run[name] for name in COUNTS] == [40, 26, 14, 0]
    assert [run[name] for name in MEANS] == [*expected([r for r in range(40) if r % 3])[:4], None]


def test_a_trial_that_a_rule_stopped_counts_at_its_end_and_no_longer(tmp_path: Path) -> None:
    """Probes find it where it stands at later steps too; losses there are of the slow ones alone."""
    stopped = {"trials": {"stopped": {str(r): 100 for r in range(0, 40, 3)}}}
    tables = forty()
    tables["eigenvalues"] = [
        eigenvalue(row["step"], 10.0 * row["replica"], replica=row["replica"]) for row in tables["eigenvalues"]
    ]
    tables["trace"] = [
        trace(row["step"], 100.0 * row["replica"], 1.0, replica=row["replica"]) for row in tables["trace"]
    ]
    curve, run, size = rows_of(tmp_path, tables, **stopped)
    assert (curve["used"], curve["ended"], curve["diverged"]) == (26, 14, 0)
    assert [curve[name] for name in MEANS] == expected([r for r in range(40) if r % 3])
    assert (run["used"], run["diverged"], size["trials_used"]) == (40, 0, 40)
    assert [run[name] for name in MEANS] == expected(list(range(40)))


def test_a_run_alone_that_diverged_shows_nothing_of_where_it_broke(tmp_path: Path) -> None:
    broken = [*evaluated(0, 0, 1.0), *evaluated(50, 0, 0.5), *evaluated(61, 0, 1e12)]
    tables = {"evaluations": broken, "eigenvalues": [eigenvalue(50, 4.0)]}
    write_run(tmp_path, id_of(1), recipe(), tables, status="diverged", step=61, reason="batch loss 1e12")
    study = Study.open([tmp_path])
    rows = Curves().render(study).rows
    assert [(row["step"], row["train_loss"], row["diverged"]) for row in rows] == [
        (0, 1.0, 0),
        (50, 0.5, 0),
        (61, None, 1),
    ]
    (row,) = Runs().render(study).rows
    assert [row[name] for name in COUNTS] == [1, 0, 1, 0]
    assert row["train_loss"] is row["lambda_max"] is None
    assert Endings().render(study).rows[0]["fell_share"] == 0


def test_a_spectrum_of_a_trial_that_diverged_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(replicas=40), forty(), **RECORD)
    rows = Spectrum().render(Study.open([tmp_path])).rows
    assert [row["replica"] for row in rows] == [r for r in range(40) if r % 3]


def test_a_mean_that_some_runs_lack_is_none(tmp_path: Path) -> None:
    for number in range(5):
        tables = {"evaluations": evaluated(200, 0, 1.0), "eigenvalues": [eigenvalue(200, 2.0 + number)]}
        tables |= {"trace": [trace(200, 9.0, 1.0)]} if number else {}
        write_run(tmp_path, id_of(number), recipe(seed=number), tables)
    answer = Sharpness().render(Study.open([tmp_path]))
    (row,) = answer.rows
    assert (row["used"], row["lambda_max"], row["train_loss"], row["trace"]) == (5, 4.0, 1.0, None)
    assert any("1 of 5 runs have no trace; beside them there is no mean of it" in note for note in answer.notes)


def test_real_trials_that_diverge_are_recorded_and_counted(tmp_path: Path) -> None:
    base = {
        "name": "many",
        "model": {"name": "mlp", "hidden": [8]},
        "dataset": {"name": "digits", "train": 100, "test": 20},
        "loss": "mse",
        "optimizer": {"name": "sgd", "lr": 1.2},
        "batch_size": 16,
        "steps": 12,
        "replicas": 12,
        "divergence": 1.5,
        "threads": 1,
        "evaluate": {"every": 4},
        "probes": [{"name": "eigenvalues", "top": 1, "bottom": 0, "every": 4, "budget": 30}],
    }
    run = trained(tmp_path, base=base)
    gone = {int(number): step for number, step in manifest(run.folder)["trials"]["diverged"].items()}
    assert 0 < len(gone) < 12
    evaluations, eigenvalues = frame(run, "evaluations"), frame(run, "eigenvalues")
    left = [r for r in range(12) if r not in gone]
    study = Study.open([run.folder])
    (row,), curve, (end,) = Runs().render(study).rows, Curves().render(study).rows[-1], Endings().render(study).rows
    train = evaluations[(evaluations["split"] == "train") & (evaluations["step"] == 12)].set_index("replica")["loss"]
    large = eigenvalues[eigenvalues["step"] == 12].set_index("replica")["eigenvalue"]
    assert len(large) == 12, "the probe looks at those that diverged too"
    for found in (row, curve):
        assert [found[name] for name in COUNTS] == [12, len(left), len(gone), 0]
        assert found["train_loss"] == pytest.approx(train[left].mean())
        assert found["lambda_max"] == pytest.approx(large[left].mean())
    assert (end["trials"], end["diverged"]) == (12, len(gone))
    assert end["used"] + end["diverged"] <= 12
    assert end["fell_share"] == pytest.approx(end["used"] / 12)
    facts = manifest(run.folder)
    del facts["trials"]
    (run.folder / "run.json").write_text(json.dumps(facts))
    (again,) = Runs().render(Study.open([run.folder])).rows
    assert [again[name] for name in (*COUNTS, *MEANS)] == [row[name] for name in (*COUNTS, *MEANS)]
