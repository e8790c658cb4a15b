"""`lossgeo probe` on checkpoints measures what the same probe in the training measured, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lossgeo.components.parsing import parse
from lossgeo.errors import LossgeoError, RunError, Stopped
from lossgeo.probes import Probe
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.probing import At, probe
from lossgeo.runs.training import Progress
from tests.support.program import (
    EIGENVALUES,
    TIMES,
    TRACE,
    After,
    checkpoints,
    content,
    manifest,
    news,
    rows,
    tables,
    trained,
)

MODELS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "batch norm": {
        "model": {"name": "resnet", "width": 2, "blocks": 1, "normalization": "batch"},
        "dataset": {"name": "digits", "train": 200, "test": 50},
        "steps": 6,
    },
    "regression": {"dataset": "diabetes", "loss": "mse", "batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01}},
    "float64": {"dtype": "float64", "optimizer": {"name": "rmsprop", "lr": 0.01}},
}
CHANGES: dict[str, Any] = {"steps": 20, "checkpoint": {"every": 1}, "evaluate": {"every": 10}}


def probes(*plain: dict[str, Any]) -> list[Probe]:
    found = [parse(Probe, settings) for settings in plain]
    assert all(not problems for _, problems in found)
    return [value for value, _ in found if value is not None]


def measure(folder: Path, *plain: dict[str, Any], at: At = "all") -> list[Progress]:
    return list(probe(folder, probes(*plain), at, Interrupt()))


@pytest.mark.parametrize("model", MODELS)
def test_on_checkpoints_as_in_training(tmp_path: Path, model: str) -> None:
    changes = CHANGES | MODELS[model]
    asked = [
        EIGENVALUES | {"samples": 100},
        TRACE | {"samples": 100},
        EIGENVALUES | {"samples": 60, "batch_norm": "batch"},
    ]
    during = trained(tmp_path, probes=[a | {"every": 1} for a in asked], **changes)
    after = trained(tmp_path, **changes)
    before = content(after.folder)
    told = measure(after.folder, *reversed(asked))
    without = ("run", *TIMES)
    assert tables(after.folder, without) == tables(during.folder, without)
    assert len(rows(after.folder, "trace")) == changes["steps"] + 1
    assert {row["run"] for row in rows(after.folder, "trace")} == {after.id}
    assert checkpoints(after.folder) == before[1], "measuring moves nothing"
    assert {k: v for k, v in tables(after.folder).items() if k in before[0]} == before[0]
    assert told[-1].step == told[-1].steps == 3 * (changes["steps"] + 1)


def test_more_threads_than_one_give_the_same_as_in_training(tmp_path: Path) -> None:
    changes = CHANGES | {"threads": 2, "model": {"name": "mlp", "hidden": [64, 64]}, "checkpoint": {"every": 5}}
    during = trained(tmp_path, probes=[TRACE | {"every": 5}], **changes)
    after = trained(tmp_path, **changes)
    torch.set_num_threads(1)
    measure(after.folder, TRACE)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert tables(after.folder, ("run", *TIMES))["trace"] == tables(during.folder, ("run", *TIMES))["trace"]


@pytest.mark.parametrize(
    ("at", "expected"), [("last", [20]), ("first", [0]), ("all", [0, 10, 20]), ((10,), [10]), ((20, 0), [0, 20])]
)
def test_where(tmp_path: Path, at: At, expected: list[int]) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 10}})
    measure(run.folder, TRACE, at=at)
    assert [row["step"] for row in rows(run.folder, "trace")] == expected


def test_a_step_without_a_checkpoint_is_named_beside_those_that_have_one(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 10}})
    with pytest.raises(RunError, match="no checkpoint at step 7; there are 0, 10, 20"):
        measure(run.folder, TRACE, at=[0, 7, 20])
    assert [row["step"] for row in rows(run.folder, "trace")] == [0, 20], "the others are measured"


def test_again_does_nothing_and_another_setting_adds(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 10}})
    measure(run.folder, TRACE)
    before = (run.folder / "trace.parquet").read_bytes()
    told = measure(run.folder, TRACE)
    assert (run.folder / "trace.parquet").read_bytes() == before
    assert all(item.note is None for item in told)
    measure(run.folder, TRACE | {"vectors": 5})
    assert [row["step"] for row in rows(run.folder, "trace")] == [0, 0, 10, 10, 20, 20]
    assert len({row["probe"] for row in rows(run.folder, "trace")}) == 2
    assert news(run) == [], "and the run is still finished"


def test_a_measurement_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 20}})

    def no_room(*_: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("lossgeo.probes.trace.trace", no_room)
        for _ in range(2):  # the second time it is tried again, and the row is replaced
            told = measure(run.folder, TRACE)
            assert [item.note for item in told if item.note] == [
                f"{run.folder}: trace at step 0 failed: MemoryError: no room",
                f"{run.folder}: trace failed at 2 steps; column `failure` of its table says why",
            ]
            assert [row["value"] for row in rows(run.folder, "trace")] == [None, None]
    measure(run.folder, TRACE)
    assert [row["failure"] for row in rows(run.folder, "trace")] == [None, None]
    assert all(row["value"] > 0 for row in rows(run.folder, "trace"))


def test_what_is_asked_for_twice_is_measured_once(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES)
    list(probe(run.folder, [*probes(TRACE), *probes(TRACE)], "last", Interrupt()))
    assert len(rows(run.folder, "trace")) == 1


def test_a_signal_keeps_what_was_measured(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 5}})
    with pytest.raises(Stopped):
        list(probe(run.folder, probes(TRACE), "all", After(2)))
    assert [row["step"] for row in rows(run.folder, "trace")] == [0, 5]
    measure(run.folder, TRACE)
    assert [row["step"] for row in rows(run.folder, "trace")] == [0, 5, 10, 15, 20]


def test_a_moved_and_renamed_run_is_still_that_run(tmp_path: Path) -> None:
    run = trained(tmp_path / "outputs", **CHANGES)
    there = tmp_path / "elsewhere" / "my best run"
    shutil.copytree(run.folder, there)
    shutil.rmtree(run.folder)
    measure(there, TRACE, at="last")
    assert {row["run"] for row in rows(there, "trace")} == {run.id}
    measure(there, TRACE, at="last")
    assert len(rows(there, "trace")) == 1


def test_a_torn_checkpoint_does_not_keep_the_others_from_being_measured(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 10}})
    run.checkpoints()[10].write_bytes(b"torn")
    with pytest.raises(RunError, match=r"step-00000010\.safetensors: torn"):
        measure(run.folder, TRACE)
    assert [row["step"] for row in rows(run.folder, "trace")] == [0, 20]


def test_a_torn_table_of_ones_own_is_set_aside_and_measured_again(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"checkpoint": {"every": 10}})
    measure(run.folder, TRACE)
    file = run.folder / "trace.parquet"
    whole = tables(run.folder)["trace"]
    file.write_bytes(file.read_bytes()[:300])
    told = measure(run.folder, TRACE)
    notes = [item.note for item in told if item.note]
    assert len(notes) == 1
    assert "trace.parquet was torn and is kept as trace.parquet.torn" in notes[0]
    assert tables(run.folder)["trace"] == whole


def test_a_torn_table_of_the_training_is_left_to_the_training(tmp_path: Path) -> None:
    run = trained(tmp_path, probes=[TRACE | {"every": 10}], **CHANGES)
    whole = content(run.folder)
    file = run.folder / "trace.parquet"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(RunError, match=r"trace\.parquet: not readable .*`lossgeo train`"):
        measure(run.folder, TRACE | {"vectors": 7})
    assert not list(run.folder.glob("*.torn"))
    news(run)
    assert content(run.folder) == whole


def test_a_table_with_foreign_columns_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES)
    pq.write_table(pa.table({"step": [1]}), run.folder / "trace.parquet")
    with pytest.raises(RunError, match="has other columns"):
        measure(run.folder, TRACE)
    assert pq.read_table(run.folder / "trace.parquet").column_names == ["step"]


@pytest.mark.parametrize("edit", ["lr: 0.1\n", "", "\x00", "[1, 2]"])
def test_an_edited_recipe_is_refused(tmp_path: Path, edit: str) -> None:
    run = trained(tmp_path, **CHANGES)
    file = run.folder / "recipe.yaml"
    text = file.read_text()
    file.write_text(text.replace("lr: 0.1\n", "lr: 0.2\n") if edit.startswith("lr") else edit)
    with pytest.raises(RunError, match=r"recipe\.yaml: .*not what the run was made from.*lossgeo train "):
        measure(run.folder, TRACE)
    assert not (run.folder / "trace.parquet").exists()
    file.write_text(text)
    measure(run.folder, TRACE, at="last")


def test_other_data_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "mine.npz"
    inputs, labels = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    np.savez(data, inputs=inputs, targets=labels)
    run = trained(tmp_path, **CHANGES | {"dataset": {"name": "file", "path": str(data)}, "batch_size": 10})
    np.savez(data, inputs=inputs + 1e-9, targets=labels)
    with pytest.raises(RunError, match="other data"):
        measure(run.folder, TRACE)
    data.unlink()
    with pytest.raises(LossgeoError, match=r"mine\.npz: there is no such file"):
        measure(run.folder, TRACE)
    np.savez(data, inputs=inputs, targets=labels)
    measure(run.folder, TRACE, at="last")


def test_a_diverged_run_has_points_to_measure_at(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES | {"optimizer": {"name": "sgd", "lr": 1e30}})
    assert manifest(run.folder)["status"] == "diverged"
    measure(run.folder, TRACE)
    assert all(np.isfinite(row["value"]) for row in rows(run.folder, "trace"))


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    run = trained(tmp_path, **CHANGES)
    for file in run.checkpoints().values():
        file.unlink()
    with pytest.raises(RunError, match="no checkpoint to measure on"):
        measure(run.folder, TRACE)
