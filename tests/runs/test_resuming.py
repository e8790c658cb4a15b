"""Stopped and gone on is never stopped: every column of every table but the times, every byte of every checkpoint."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lossgeo.errors import Stopped
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.resuming import finished
from tests.support.program import (
    EIGENVALUES,
    TRACE,
    After,
    a_run,
    checkpoints,
    content,
    manifest,
    news,
    rows,
    start,
    tables,
    train_in_child,
    trained,
    until,
    written,
)

FORK = multiprocessing.get_context("fork")

# 100 examples in batches of 9: 12 to an epoch, the last one of a single example; nothing falls on the ends of epochs
WATCHED: dict[str, Any] = {
    "dataset": {"name": "digits", "train": 100, "test": 50},
    "batch_size": 9,
    "steps": 40,
    "log": {"every": 3},
    "evaluate": {"every": 7},
    "checkpoint": {"every": 5},
    "probes": [
        EIGENVALUES | {"samples": 50, "every": 4},
        TRACE | {"samples": 50, "at": [3, 5, 6, "last"]},
        TRACE | {"samples": 60, "every": 10},
    ],
}
CASES: dict[str, dict[str, Any]] = {
    "momentum": {},
    "nesterov and weight decay": {
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
        "schedule": {"name": "cosine", "warmup": 7},
    },
    "adam": {"optimizer": {"name": "adam", "lr": 0.01}},
    "rmsprop, keep last": {
        "optimizer": {"name": "rmsprop", "lr": 0.01, "momentum": 0.5, "centered": True},
        "checkpoint": {"every": 5, "keep": "last"},
    },
    "a stop between": {"stop": {"train_loss_below": 1.3}, "evaluate": {"every": 1}, "checkpoint": {"every": 50}},
    "batch norm": {
        "model": {"name": "resnet", "width": 2, "blocks": 1, "normalization": "batch"},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "steps": 16,
        "probes": [TRACE | {"samples": 20, "every": 6, "batch_norm": "batch"}],
    },
    "diverges": {"optimizer": {"name": "sgd", "lr": 1e3}, "model": "logistic", "divergence": 30.0},
}


def child(out: Path, changes: dict[str, Any], die_at_write: int | None = None) -> Any:
    process = FORK.Process(target=train_in_child, args=(out, changes, die_at_write))
    process.start()
    return process


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_write_and_gone_on(tmp_path: Path, case: str) -> None:
    """Each time with a torn file left where the next version was being written; the last life runs to the end."""
    changes = WATCHED | CASES[case]
    whole = content(trained(tmp_path / "whole", **changes).folder)
    deaths = 0
    # every life gets further than the one before by a different number of writes, so that all kinds are hit
    for writes in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 23]:
        process = child(tmp_path / "broken", changes, writes)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
    run = trained(tmp_path / "broken", **changes)
    assert deaths >= 5
    assert content(run.folder) == whole
    assert list(run.folder.rglob("*.part")) == [], "torn temporary files are gone"
    assert manifest(run.folder)["status"] == ("diverged" if case == "diverges" else "done")


def writes_of(changes: dict[str, Any], out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files an uninterrupted run writes."""
    count = 0
    rename = Path.replace

    def replace(self: Path, target: Any) -> Path:
        nonlocal count
        count += 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        trained(out, **changes)
    return count


@pytest.mark.parametrize("case", ["momentum", pytest.param("a stop between", marks=pytest.mark.slow), "diverges"])
def test_killed_once_at_any_write(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = WATCHED | CASES[case] | {"checkpoint": {"every": 5}, "steps": 11}
    number = writes_of(changes, tmp_path / "whole", monkeypatch)
    whole = content(a_run(tmp_path / "whole", **changes).folder)
    assert number > 10
    for write in range(1, number + 1):
        out = tmp_path / str(write)
        process = child(out, changes, write)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert content(trained(out, **changes).folder) == whole, f"killed at write {write}"


def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    changes = WATCHED | {"steps": 200, "log": {"every": 1}}
    done = trained(tmp_path / "whole", **changes)
    whole, took = content(done.folder), manifest(done.folder)["seconds"]
    moments = random.Random(0)
    deaths = lives = 0
    while deaths < 20:
        process = child(tmp_path / f"broken{lives}", changes)
        time.sleep(moments.uniform(0.0, took / 4))
        process.kill()
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            assert content(a_run(tmp_path / f"broken{lives}", **changes).folder) == whole
            lives += 1
    run = trained(tmp_path / f"broken{lives}", **changes)
    assert content(run.folder) == whole


@pytest.mark.parametrize("case", CASES)
def test_stopped_by_a_signal_at_any_step_and_gone_on(tmp_path: Path, case: str) -> None:
    changes = WATCHED | CASES[case]
    whole = content(trained(tmp_path / "whole", **changes).folder)
    run = a_run(tmp_path / "stopped", **changes)
    stops = []
    for looks in [0, 1, 2, 3, 5, 8, 2, 1, 7, 13, 1, 1, 10]:
        with suppress(Stopped):
            news(run, After(looks))
        facts = manifest(run.folder)
        if facts["status"] != "stopped":
            break
        assert facts["reason"] == "by a signal"
        assert facts["step"] in run.checkpoints(), "the point where it stopped is kept"
        stops.append(facts["step"])
    assert len(stops) >= 2
    assert stops == sorted(stops)
    news(run)
    assert content(run.folder) == whole


def test_a_stop_costs_no_second_measurement_of_what_lies_before(tmp_path: Path) -> None:
    run = a_run(tmp_path, **WATCHED)
    with pytest.raises(Stopped):
        news(run, After(20))
    before = rows(run.folder, "eigenvalues")
    at = manifest(run.folder)["step"]
    news(run)
    after = rows(run.folder, "eigenvalues")
    kept = [row for row in before if row["step"] < at]
    assert kept
    assert after[: len(kept)] == kept, "seconds included"


def test_what_the_probe_command_measured_on_a_stopped_run_is_kept(tmp_path: Path) -> None:
    from lossgeo.components.parsing import parse
    from lossgeo.probes import Probe
    from lossgeo.runs.probing import probe

    changes = WATCHED | {"probes": [TRACE | {"samples": 50, "every": 10}]}
    whole = trained(tmp_path / "whole", **changes)
    run = a_run(tmp_path / "stopped", **changes)
    with pytest.raises(Stopped):
        news(run, After(11))
    at = manifest(run.folder)["step"]
    assert at % 10
    same, problems = parse(Probe, TRACE | {"samples": 50})
    other, _ = parse(Probe, TRACE | {"samples": 33})
    assert same is not None
    assert not problems
    list(probe(run.folder, [same, other], "last", Interrupt()))
    measured = [row for row in rows(run.folder, "trace") if row["step"] == at]
    assert len(measured) == 2
    news(run)
    assert [row for row in rows(run.folder, "trace") if row["step"] == at] == measured
    assert [row for row in tables(run.folder)["trace"] if f"'step': {at}" not in row] == tables(whole.folder)["trace"]


HEAVY = '''
"""Heavy ball, its velocity under a name with a slash."""
from typing import final
import torch
from lossgeo.optimizers import Optimizer, State, Step

@final
class Heavy(Optimizer):
    """Heavy ball."""

    lr: float = 0.1

    def init(self, loss, theta) -> State:
        return {"velocity/all": torch.zeros_like(theta), "/": torch.ones(())}

    def step(self, loss, theta, state: State, lr: float) -> Step:
        value, gradient = loss.gradient(theta)
        state["velocity/all"].mul_(0.9).add_(gradient)
        state["/"].add_(1)
        theta.sub_(lr * state["velocity/all"])
        return Step(theta, state, value, gradient)
'''


def test_state_whose_name_holds_a_slash_comes_back(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(HEAVY)
    changes = {"optimizer": "heavy", "steps": 30, "checkpoint": {"every": 5}, "probes": []}
    whole = a_run(tmp_path / "whole", [tmp_path / "heavy.py"], **changes)
    news(whole)
    run = a_run(tmp_path / "stopped", [tmp_path / "heavy.py"], **changes)
    with pytest.raises(Stopped):
        news(run, After(11))
    news(a_run(tmp_path / "stopped", [tmp_path / "heavy.py"], **changes))
    assert content(run.folder) == content(whole.folder)


# --- checkpoints that cannot be read ---------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(3000))


def huge_header(file: Path) -> None:
    file.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def foreign(file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, file)


@pytest.mark.parametrize("damage", [truncate, empty, garbage, huge_header, foreign])
def test_a_broken_checkpoint_leaves_the_work_to_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    whole = content(trained(tmp_path / "whole", **WATCHED).folder)
    run = a_run(tmp_path / "stopped", **WATCHED)
    with pytest.raises(Stopped):
        news(run, After(30))
    *_, before, last = run.checkpoints()
    damage(run.checkpoints()[last])
    notes = [item.note for item in news(run) if item.note]
    assert len(notes) == 1
    assert f"step-{last:08d}.safetensors" in notes[0]
    assert "an earlier one serves in its place" in notes[0]
    assert before < last
    assert content(run.folder) == whole


def test_without_any_whole_checkpoint_training_starts_again(tmp_path: Path) -> None:
    whole = content(trained(tmp_path / "whole", **WATCHED).folder)
    run = a_run(tmp_path / "stopped", **WATCHED)
    with pytest.raises(Stopped):
        news(run, After(30))
    for file in run.checkpoints().values():
        truncate(file)
    assert len([item for item in news(run) if item.note]) > 3
    assert content(run.folder) == whole


def test_files_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path, **WATCHED)
    with pytest.raises(Stopped):
        news(run, After(20))
    for name in ("step-best.safetensors", "step-00000010 (copy).safetensors", "notes.txt", "step-1.safetensors"):
        (run.folder / "checkpoints" / name).write_bytes(b"mine")
    news(run)
    assert manifest(run.folder)["status"] == "done"
    assert {p.name for p in (run.folder / "checkpoints").iterdir()} > {"step-best.safetensors", "notes.txt"}


# --- tables that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["steps", "evaluations", "trace"])
@pytest.mark.parametrize("status", ["done", "stopped"])
def test_a_torn_table_is_trained_again(tmp_path: Path, table: str, status: str) -> None:
    whole = content(trained(tmp_path / "whole", **WATCHED).folder)
    run = a_run(tmp_path / "torn", **WATCHED)
    if status == "done":
        news(run)
    else:
        with pytest.raises(Stopped):
            news(run, After(30))
    file = run.folder / f"{table}.parquet"
    truncate(file)
    torn = file.read_bytes()
    # interrupted again while it makes up for the loss: later checkpoints are there, but the rows up to them are not
    with pytest.raises(Stopped):
        news(run, After(8))
    assert manifest(run.folder)["step"] < 30
    assert (run.folder / f"{table}.parquet.torn").read_bytes() == torn, "nothing is thrown away"
    news(run)
    assert content(run.folder) == whole


def test_the_torn_table_is_named(tmp_path: Path) -> None:
    run = trained(tmp_path, **WATCHED)
    truncate(run.folder / "steps.parquet")
    notes = [item.note for item in news(run) if item.note]
    assert len(notes) == 1
    assert "steps.parquet was torn and is kept as steps.parquet.torn; training again from the start" in notes[0]


@pytest.mark.parametrize("status", ["done", "stopped"])
def test_a_table_that_is_gone_is_trained_again(tmp_path: Path, status: str) -> None:
    whole = content(trained(tmp_path / "whole", **WATCHED).folder)
    run = a_run(tmp_path / "gone", **WATCHED)
    with suppress(Stopped):
        news(run, After(1000 if status == "done" else 30))
    assert manifest(run.folder)["status"] == status
    (run.folder / "trace.parquet").unlink()
    notes = [item.note for item in news(run) if item.note]
    assert notes == [f"{run.folder}/trace.parquet is gone; training again from the start"]
    assert content(run.folder) == whole


def test_a_parquet_file_of_the_users_own_is_none_of_ours(tmp_path: Path) -> None:
    run = trained(tmp_path, **WATCHED)
    (run.folder / "mine.parquet").write_bytes(b"not ours")
    assert news(run) == []


# --- real signals ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_program_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and Ctrl-C to the real program, whenever; the same command again gets to the same end."""
    changes = WATCHED | {
        "steps": 6000,
        "log": {"every": 10},
        "checkpoint": {"every": 500},
        "probes": [TRACE | {"every": 500}],
    }
    whole = content(trained(tmp_path / "whole", **changes).folder)
    path = written(tmp_path, **changes)
    folder = a_run(tmp_path / "outputs", **changes).folder
    moments = random.Random(1)
    codes = []
    for signum in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * 4:
        process = start("train", path, cwd=tmp_path)
        time.sleep(moments.uniform(1.5, 4.5))
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        codes.append(process.returncode)
    # the signal itself where it met the program while it was ending, with all its work done
    assert set(codes) <= {0, 75, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
    process = start("train", path, cwd=tmp_path)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out == f"outputs/tiny/{folder.name}\n"
    assert content(folder) == whole
    assert checkpoints(folder)
    assert finished(a_run(tmp_path / "outputs", **changes))
    until(lambda: process.poll() is not None)
