"""A run's folder against a world that edits, tears, moves, copies and fills it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lossgeo.errors import RunError, Stopped
from lossgeo.recipes.documents import read_document
from lossgeo.recipes.resolving import resolve
from lossgeo.reports.analysis.study import Study
from lossgeo.runs.executors import Outcome, attempt, ended
from lossgeo.runs.executors.local import Local
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.resuming import data_sha256, finished
from lossgeo.runs.run import Run, left_behind
from lossgeo.runs.training import train
from tests.support.program import RECIPE, TRACE, After, a_run, content, manifest, news, rows, runs, tables, trained

SHORT: dict[str, Any] = {"steps": 20, "checkpoint": {"every": 5}, "evaluate": {"every": 5}}


def stopped(run: Run) -> Run:
    """Train until half way, then a signal."""
    with pytest.raises(Stopped):
        news(run, After(10))
    assert 0 < manifest(run.folder)["step"] < 20
    return run


def failure(run: Run) -> Outcome:
    data_sha256.cache_clear()
    *_, last = attempt(train(run, Interrupt()))
    assert isinstance(last, Outcome)
    assert last.failure is not None
    return last


# --- one process at a time -------------------------------------------------------------------------------------------


def _hold(run: Run, ready: Any, release: Any) -> None:
    with run.locked():
        ready.set()
        release.wait(30)


def test_two_processes_never_train_one_run(tmp_path: Path) -> None:
    run = stopped(a_run(tmp_path, **SHORT))
    before = content(run.folder), (run.folder / "run.json").read_bytes()
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()
    holder = fork.Process(target=_hold, args=(run, ready, release))
    holder.start()
    assert ready.wait(30)
    outcome = failure(run)
    assert outcome.exit_code == 1
    assert f"in use by process {holder.pid} on " in str(outcome.failure)
    assert (content(run.folder), (run.folder / "run.json").read_bytes()) == before, "nothing was touched"
    os.kill(holder.pid, signal.SIGKILL)  # the lock goes with its holder, however it ends
    holder.join()
    news(run)
    assert manifest(run.folder)["status"] == "done"


def test_what_another_process_finished_meanwhile_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path, **SHORT)
    real = Run.locked

    def late(self: Run) -> Any:  # the other process finishes between our first look and our lock
        monkeypatch.setattr(Run, "locked", real)
        trained(tmp_path, **SHORT)
        return real(self)

    monkeypatch.setattr(Run, "locked", late)
    assert news(run) == []
    assert manifest(run.folder)["status"] == "done"


# --- run.json --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", '{"run": "c0', "[1]", "null", "\x00\x00", "3"])
@pytest.mark.parametrize("state", ["stopped", "done"])
def test_a_torn_manifest_is_named_and_training_goes_on_without_it(tmp_path: Path, text: str, state: str) -> None:
    whole = content(trained(tmp_path / "whole", **SHORT).folder)
    run = a_run(tmp_path / "torn", **SHORT)
    if state == "stopped":
        stopped(run)
    else:
        news(run)
    file = run.folder / "run.json"
    file.write_text(text)
    outcome = failure(run)
    assert outcome.exit_code == 1
    assert str(file) in str(outcome.failure)
    assert "remove that file, and the command that trained the run goes on from its last checkpoint" in str(
        outcome.failure
    )
    assert file.read_text() == text
    file.unlink()
    news(run)
    assert content(run.folder) == whole
    assert manifest(run.folder)["status"] == "done"


def test_one_torn_manifest_does_not_keep_the_other_runs_from_training(tmp_path: Path) -> None:
    first, second, third = runs(tmp_path, sweep={"seed": [0, 1, 2]}, **SHORT)
    news(first)
    news(second)
    (first.folder / "run.json").write_text("{")
    outcomes = {
        run.id: item for run, item in Local().train([first, second, third], Interrupt()) if isinstance(item, Outcome)
    }
    assert [outcomes[run.id].exit_code for run in (first, second, third)] == [1, 0, 0]
    assert manifest(third.folder)["status"] == "done"


def test_a_manifest_and_its_folder_are_never_there_without_what_reports_need(tmp_path: Path) -> None:
    """Killed at its first write or its second, a folder is either no run yet or one that reports can show."""
    run = a_run(tmp_path, **SHORT)
    with run.locked():
        pass
    assert not (run.folder / "run.json").exists()
    with run.locked():
        run.make()
    (shown,) = Study.open([tmp_path]).runs
    assert (shown.id, shown.status) == (run.id, "running")


# --- recipe and components -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stopped", "done"])
def test_an_edited_recipe_in_the_folder_is_set_aside(tmp_path: Path, state: str) -> None:
    whole = content(trained(tmp_path / "whole", **SHORT).folder)
    run = a_run(tmp_path / "edited", **SHORT)
    if state == "stopped":
        stopped(run)
    else:
        news(run)
    file = run.folder / "recipe.yaml"
    text = file.read_text()
    for number in ("", "2"):
        edit = text.replace("lr: 0.1", f"lr: 0.5{number}")
        file.write_text(edit)
        notes = [item.note for item in news(run) if item.note]
        assert len(notes) == 1
        assert (
            f"recipe.yaml was edited; the run goes on as it was made, the edit is kept as recipe.yaml.edited{number}"
            in notes[0]
        )
        assert file.read_text() == text
        assert (run.folder / f"recipe.yaml.edited{number}").read_text() == edit
        assert content(run.folder) == whole
        assert finished(run)


def test_the_recipe_in_the_folder_is_runnable_as_it_stands(tmp_path: Path) -> None:
    run = trained(tmp_path, probes=[TRACE | {"every": 5}], schedule={"name": "cosine", "warmup": 3}, **SHORT)
    path = run.folder / "recipe.yaml"
    (again,) = resolve(read_document(path.read_bytes(), str(path)))
    assert again.id == run.id
    assert Run.under(tmp_path, again).folder == run.folder


MODEL = '''
from torch import nn
from typing import final
from lossgeo import Model, Task

@final
class Mine(Model):
    """A line."""

    def module(self, task: Task) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))
'''


def test_a_changed_component_is_another_run_and_the_first_keeps_its_own_copy(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(MODEL)
    first = stopped(a_run(tmp_path, [own], model="mine", **SHORT))
    own.write_text(MODEL + "# changed\n")
    second = trained(tmp_path, [own], model="mine", **SHORT)
    assert first.id != second.id
    assert (first.folder / "components" / "mine.py").read_text() == MODEL
    assert (second.folder / "components" / "mine.py").read_text() == MODEL + "# changed\n"
    (note,) = left_behind(tmp_path, [second])
    assert str(first.folder) in note
    assert f"--use {first.folder}/components" in note
    own.unlink()
    assert Run.open(first.folder).id == first.id
    assert Run.open(second.folder).id == second.id


def test_an_edited_component_in_the_folder_is_noticed(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(MODEL)
    run = trained(tmp_path, [own], model="mine", **SHORT)
    copy = run.folder / "components" / "mine.py"
    copy.write_text(MODEL + "# changed\n")
    with pytest.raises(RunError, match="not what the run was made from"):
        Run.open(run.folder)
    notes = [item.note for item in news(run) if item.note]
    assert len(notes) == 1
    assert copy.read_text() == MODEL
    assert (copy.parent / "mine.py.edited").read_text() == MODEL + "# changed\n"
    assert Run.open(run.folder).id == run.id


# --- data ------------------------------------------------------------------------------------------------------------


def data(path: Path, shift: float = 0.0) -> None:
    np.savez(path, inputs=np.random.default_rng(0).normal(size=(60, 3)) + shift, targets=np.arange(60) % 2)


@pytest.mark.parametrize("state", ["stopped", "done"])
def test_changed_data_are_refused_until_they_are_back(tmp_path: Path, state: str) -> None:
    path = tmp_path / "mine.npz"
    data(path)
    changes = SHORT | {"dataset": {"name": "file", "path": str(path)}, "batch_size": 7}
    whole = content(trained(tmp_path / "whole", **changes).folder)
    run = a_run(tmp_path / "changed", **changes)
    if state == "stopped":
        stopped(run)
    else:
        news(run)
    before = content(run.folder), (run.folder / "run.json").read_bytes()
    data(path, 1e-6)
    outcome = failure(a_run(tmp_path / "changed", **changes))
    assert outcome.exit_code == 1
    assert "was begun with other data; put them back, or remove the folder" in str(outcome.failure)
    assert (content(run.folder), (run.folder / "run.json").read_bytes()) == before
    data(path)
    news(run)
    assert content(run.folder) == whole
    path.unlink()
    assert news(run) == [], "data that are gone are no reason to touch a finished run"


def test_what_the_data_were_is_on_record(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    data(path)
    run = trained(tmp_path, **SHORT | {"dataset": {"name": "file", "path": str(path)}, "batch_size": 7})
    facts = manifest(run.folder)["data"]
    assert facts["source"] == f"file {path}"
    assert (facts["train"], facts["test"], facts["inputs"], facts["outputs"]) == (48, 12, [3], 2)


# --- places ----------------------------------------------------------------------------------------------------------


def test_another_slug_with_the_same_id_is_the_same_run(tmp_path: Path) -> None:
    run = trained(tmp_path, **SHORT)
    renamed = run.folder.with_name(f"the-best-{run.id}")
    run.folder.rename(renamed)
    assert a_run(tmp_path, **SHORT).folder == renamed
    assert news(a_run(tmp_path, **SHORT)) == []


def test_foreign_files_beside_and_among_runs_do_no_harm(tmp_path: Path) -> None:
    other = stopped(a_run(tmp_path, **SHORT | {"seed": 5}))
    run = a_run(tmp_path, **SHORT)
    home = tmp_path / "tiny"
    (home / f"notes-{run.id}").write_text("a file with the id of a run")
    for name, text in {"a": "", "b": "[]", "c": "{", "d": "{}", "e": "\xff", "f": '{"status": 3}'}.items():
        (home / name).mkdir()
        (home / name / "run.json").write_text(text, encoding="latin-1")
    (home / "g").mkdir()
    (home / "g" / "run.json").mkdir()
    (home / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "README").write_text("mine")
    news(run)
    assert manifest(run.folder)["status"] == "done"
    notes = list(left_behind(tmp_path, [run]))
    assert [note for note in notes if str(other.folder) in note]
    assert (home / f"notes-{run.id}").read_text() == "a file with the id of a run"


def test_the_note_on_a_run_left_behind_is_a_command_that_goes_on_with_it(tmp_path: Path) -> None:
    out = tmp_path / "my outputs"
    old = stopped(a_run(out, **SHORT))
    (note,) = left_behind(out, [a_run(out, **SHORT | {"seed": 1})])
    assert "(stopped at step 9) belongs to another version of tiny" in note
    assert note.endswith(f"lossgeo train '{old.folder}/recipe.yaml' --out '{out}'")
    news(old)
    assert list(left_behind(out, [a_run(out, **SHORT | {"seed": 1})])) == [], "a finished one is not worth a word"


def test_foreign_files_in_a_run_folder_do_no_harm(tmp_path: Path) -> None:
    run = stopped(a_run(tmp_path, **SHORT))
    (run.folder / "notes.parquet").write_bytes(b"mine")
    (run.folder / ".DS_Store").write_bytes(b"theirs")
    (run.folder / "checkpoints" / "best.pt").write_bytes(b"mine")
    (run.folder / "components").mkdir(exist_ok=True)
    news(run)
    assert finished(run)
    assert (run.folder / "notes.parquet").read_bytes() == b"mine"


# --- what goes wrong inside ------------------------------------------------------------------------------------------

RAISING = '''
from torch import nn
from typing import final
from lossgeo import Model, Task

class Net(nn.Sequential):
    calls = 0
    def forward(self, x):
        if self.training:
            Net.calls += 1
            if Net.calls == {step}:
                {statement}
        return super().forward(x)

@final
class Raising(Model):
    """Fails."""

    def module(self, task: Task) -> nn.Module:
        {early}
        return Net(nn.Flatten(), nn.Linear(64, task.outputs))
'''


def raising(folder: Path, statement: str, step: int = 13, early: str = "pass") -> Path:
    path = folder / "raising.py"
    path.write_text(RAISING.format(statement=statement, step=step, early=early))
    return path


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("raise ValueError('two\\nlines')", "ValueError: two lines (raising.py:12)"),
        ("1 / 0", "ZeroDivisionError: division by zero (raising.py:12)"),
        ("raise SystemExit(3)", "SystemExit: 3 (raising.py:12)"),
        (
            "raise OSError(2, 'No such file', 'weights.pt')",
            "FileNotFoundError: [Errno 2] No such file: 'weights.pt' (raising.py:12)",
        ),
        ("x.flatten(1)[:3] @ x.flatten(1)[:3]", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_what_a_users_model_raises_is_named_and_tried_again(tmp_path: Path, statement: str, reason: str) -> None:
    run = a_run(tmp_path, [raising(tmp_path, statement)], model="raising", **SHORT)
    outcome = failure(run)
    assert outcome.exit_code == 1
    assert str(outcome.failure).startswith(reason)
    facts = manifest(run.folder)
    assert (facts["status"], facts["reason"]) == ("failed", outcome.failure)
    assert "raising.py" in facts["traceback"]
    assert 0 in run.checkpoints()
    assert ended(run) is None, "the same command tries it again"
    news(run)  # the count of calls has passed the one that fails
    facts = manifest(run.folder)
    assert (facts["status"], facts["reason"], facts["traceback"]) == ("done", None, None)


@pytest.mark.parametrize("early", ["raise ValueError('no')", "import nonexistent_package", "raise SystemExit"])
def test_what_it_raises_while_it_is_built_leaves_nothing(tmp_path: Path, early: str) -> None:
    run = a_run(tmp_path / "out", [raising(tmp_path, "pass", early=early)], model="raising", **SHORT)
    outcome = failure(run)
    assert outcome.exit_code == 1
    assert "raising.py:" in str(outcome.failure)
    assert not (tmp_path / "out").exists()


# --- disks -----------------------------------------------------------------------------------------------------------


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("after", [0, 1, 2, 5, 8, 9, 10])
def test_a_full_disk_leaves_what_was_written_whole(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up after some writes; with space again the same command comes to the same end."""
    whole = content(trained(tmp_path / "whole", **SHORT).folder)
    run = a_run(tmp_path / "full", **SHORT)
    left = iter([os.fsync] * after)
    monkeypatch.setattr("os.fsync", lambda descriptor: next(left, full)(descriptor))  # noqa: PLW0108
    outcome = failure(run)
    assert outcome.exit_code == 1
    assert "No space left on device: '" in str(outcome.failure)
    assert "free some space, and the same command goes on" in str(outcome.failure)
    assert not list(run.folder.rglob("*.part"))
    tables(run.folder)  # can be read
    monkeypatch.undo()
    news(run)
    assert content(run.folder) == whole


@pytest.mark.parametrize("damage", [lambda f: f.chmod(0o500), lambda f: (shutil.rmtree(f), f.write_text("a file"))])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    damage(out)
    if os.access(out, os.W_OK) and out.is_dir():
        pytest.skip("root may write anywhere; test_faults mounts a read-only file system")
    outcome = failure(a_run(out, **SHORT))
    assert outcome.exit_code == 2
    assert "cannot be written: " in str(outcome.failure)
    assert "choose another folder" in str(outcome.failure)


def test_equal_runs_of_a_sweep_are_one(tmp_path: Path) -> None:
    assert len(runs(tmp_path, sweep={"seed": [0, 0, 1]})) == 2


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    run = trained(tmp_path, **SHORT | {"sweep": {"optimizer.lr": [0.25]}})
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["swept"] == {"optimizer.lr": 0.25}
    plain = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert plain["optimizer"]["lr"] == 0.25
    assert "sweep" not in plain
    assert RECIPE["optimizer"]["lr"] == 0.1
    assert rows(run.folder, "steps")[0]["lr"] == 0.25
