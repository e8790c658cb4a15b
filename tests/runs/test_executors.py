"""Worker processes: what they compute, how they die, and what is left of them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lossgeo.runs.executors import Outcome
from lossgeo.runs.executors.local import Local
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.run import Run
from tests.support.program import SAID, content, lossgeo, manifest, runs, start, trained, until, written

SEEDS = {"seed": {"range": 3}}
LONG: dict[str, Any] = {"steps": 200_000, "log": {"every": 50_000}, "evaluate": {"every": 50_000}}

KILLED = '''
import os, signal
from pathlib import Path
from torch import nn
from typing import final
from lossgeo import Model, Task

class Net(nn.Sequential):
    steps = 0
    def forward(self, x):
        Net.steps += self.training
        flag = Path({flag!r})
        if Net.steps == 12 and {when}:
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

@final
class Killed(Model):
    """Takes its process with it."""

    width: int = 0

    def module(self, task: Task) -> nn.Module:
        Net.steps = -1000 if self.width == 0 else 0
        return Net(nn.Flatten(), nn.Linear(64, task.outputs))
'''


def killed(folder: Path, when: str) -> Path:
    path = folder / "killed.py"
    path.write_text(KILLED.format(flag=str(folder / "flag"), when=when))
    return path


def by_seed(out: Path, **changes: Any) -> dict[int, Any]:
    return {run.recipe.seed: run for run in runs(out, sweep=SEEDS, **changes)}


def test_two_workers_compute_what_one_process_does_and_a_second_time_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, sweep=SEEDS)
    found = lossgeo("train", path, "--jobs", 2, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, SAID)
    expected = by_seed(tmp_path / "outputs")
    assert sorted(found.stdout.splitlines()) == sorted(
        str(run.folder.relative_to(tmp_path)) for run in expected.values()
    )
    for seed, run in expected.items():
        assert content(run.folder) == content(trained(tmp_path / "alone", seed=seed).folder)
        assert manifest(run.folder)["threads"] == 1
        assert manifest(run.folder)["swept"] == {"seed": seed}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs").rglob("*")}
    again = lossgeo("train", path, "--jobs", 2, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert sorted(again.stdout.splitlines()) == sorted(found.stdout.splitlines())
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs").rglob("*")} == before


def in_workers(found: list[Run], jobs: int = 2) -> tuple[dict[str, Outcome], list[str]]:
    """The runs' outcomes by id, and the notes on the way; the program around it is left out, the workers are real."""
    outcomes, notes = {}, []
    for run, item in Local(jobs=jobs).train(found, Interrupt()):
        if isinstance(item, Outcome):
            assert run.id not in outcomes
            outcomes[run.id] = item
        elif item.note:
            notes.append(item.note)
    return outcomes, notes


def test_a_run_whose_worker_is_killed_once_goes_on_in_another(tmp_path: Path) -> None:
    own = killed(tmp_path, "not flag.exists()")
    changes: dict[str, Any] = {"model": {"name": "killed"}, "checkpoint": {"every": 5}}
    found = runs(tmp_path / "workers", [own], sweep={"model.width": [0, 1]}, **changes)
    outcomes, notes = in_workers(found)
    assert (tmp_path / "flag").exists()
    assert list(outcomes.values()) == [Outcome(), Outcome()]
    (run,) = [run for run in found if run.resolved.swept["model.width"] == 1]
    assert notes == [f"{run.folder}: its worker was killed by SIGKILL (out of memory?); trying once more"]
    # the flag is there now, so nothing is killed
    alone = trained(tmp_path / "alone", [own], **changes | {"model": {"name": "killed", "width": 1}})
    assert content(run.folder) == content(alone.folder)


def test_a_run_whose_worker_is_killed_always_is_reported_and_the_others_finish(tmp_path: Path) -> None:
    own = killed(tmp_path, "True")
    found = runs(tmp_path, [own], sweep={"model.width": [1, 0]}, model={"name": "killed"})
    outcomes, notes = in_workers(found)
    assert len(notes) == 1
    for run in found:
        if run.resolved.swept["model.width"] == 0:
            assert outcomes[run.id] == Outcome()
            assert manifest(run.folder)["status"] == "done"
        else:
            assert outcomes[run.id] == Outcome("its worker was killed by SIGKILL (out of memory?), 2 times", 1)


def test_what_a_model_raises_in_a_worker_is_named_and_the_others_finish(tmp_path: Path) -> None:
    own = killed(tmp_path, "True")
    own.write_text(own.read_text().replace("os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError('boom')"))
    found = runs(tmp_path, [own], sweep={"model.width": [1, 0]}, model={"name": "killed"})
    outcomes, notes = in_workers(found)
    assert notes == []
    assert [outcomes[run.id].exit_code for run in found] == [1, 0]
    assert outcomes[found[0].id].failure == "ValueError: boom (killed.py:15)"
    assert manifest(found[0].folder)["status"] == "failed"


def test_a_component_that_changes_under_a_running_command_is_refused(tmp_path: Path) -> None:
    own = killed(tmp_path, "False")
    found = runs(tmp_path, [own], sweep={"model.width": [0, 1]}, model={"name": "killed"})
    own.write_text(own.read_text() + "# changed\n")
    outcomes, _ = in_workers(found)
    assert {outcome.exit_code for outcome in outcomes.values()} == {1}
    assert "was changed since the command began" in str(outcomes[found[0].id].failure)
    assert not found[0].folder.exists()


def test_a_run_that_does_not_fit_its_data_does_not_keep_the_others(tmp_path: Path) -> None:
    found = runs(tmp_path, sweep={"batch_size": [64, 5000, "full"]}, steps=5)
    outcomes, _ = in_workers(found)
    assert [outcomes[run.id].exit_code for run in found] == [0, 2, 0]
    assert outcomes[found[1].id].failure == "batch_size 5000 of 1438 training examples; use `batch_size: full`"
    assert not found[1].folder.exists()


def test_closing_the_news_stops_the_workers_with_a_checkpoint(tmp_path: Path) -> None:
    found = runs(tmp_path, sweep={"seed": {"range": 2}}, **LONG)
    with closing(Local(jobs=2).train(found, Interrupt())) as news:
        until(lambda: next(news) is not None and all(run.checkpoints() for run in found))
    for run in found:
        facts = manifest(run.folder)
        assert facts["status"] == "stopped"
        assert facts["step"] in run.checkpoints()


@pytest.mark.parametrize(("signum", "code", "group"), [(signal.SIGTERM, 75, False), (signal.SIGINT, 130, True)])
def test_a_signal_stops_all_workers_with_a_checkpoint(tmp_path: Path, signum: int, code: int, group: bool) -> None:
    """SIGTERM to the parent alone, as a batch system sends it; Ctrl-C to the whole group, as a terminal does."""
    path = written(tmp_path, sweep=SEEDS, **LONG)
    process = start("train", path, "--jobs", 2, cwd=tmp_path)
    until(lambda: len(list(tmp_path.glob("outputs/*/*/checkpoints/step-*"))) >= 2)
    (os.killpg if group else os.kill)(process.pid, signum)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert errors.count("the same command goes on from the checkpoint") == 2
    assert "Traceback" not in errors
    assert "error" not in errors
    begun = sorted(tmp_path.glob("outputs/*/*"))
    assert len(begun) == 2, "the third was not begun"
    for folder in begun:
        facts = manifest(folder)
        assert facts["status"] == "stopped"
        assert (folder / "checkpoints" / f"step-{facts['step']:08d}.safetensors").exists()


@pytest.mark.slow
def test_stopped_workers_go_on_to_the_end_of_an_unstopped_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 8000, "optimizer": {"name": "adam", "lr": 1e-3}}
    path = written(tmp_path, sweep={"seed": {"range": 2}}, **changes)
    for _ in range(3):
        process = start("train", path, "--jobs", 2, cwd=tmp_path)
        time.sleep(4.5)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode in (0, 75, -signal.SIGTERM)  # the last where it was already ending
    assert lossgeo("train", path, "--jobs", 2, cwd=tmp_path).returncode == 0
    for seed in range(2):
        whole = trained(tmp_path / "whole", seed=seed, **changes)
        (folder,) = tmp_path.glob(f"outputs/tiny/seed={seed}-*")
        assert content(folder) == content(whole.folder)


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_of_a_killed_parent_end_soon_and_leave_no_lock(tmp_path: Path) -> None:
    path = written(tmp_path, sweep={"seed": {"range": 2}}, **LONG)
    process = start("train", path, "--jobs", 2, cwd=tmp_path)
    locks = lambda: [int(f.read_text().split()[0]) for f in tmp_path.glob("outputs/*/*/.lock") if f.stat().st_size]  # noqa: E731
    until(lambda: len(list(tmp_path.glob("outputs/*/*/checkpoints/step-*"))) >= 2)
    workers = locks()
    assert process.pid not in workers
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, workers)), seconds=10)
    for folder in tmp_path.glob("outputs/*/*"):
        assert manifest(folder)["status"] == "stopped", "and they wrote a checkpoint first"
    short = written(tmp_path, **LONG | {"steps": 10})
    assert lossgeo("train", short, cwd=tmp_path).returncode == 0
    for run in runs(tmp_path / "outputs", sweep={"seed": {"range": 2}}, **LONG):
        with run.locked():  # free again
            pass
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_ctrl_c_while_the_workers_start_is_quiet(tmp_path: Path) -> None:
    path = written(tmp_path, sweep=SEEDS, **LONG)
    process = start("train", path, "--jobs", 2, cwd=tmp_path)
    # the parent is past its own imports when it has forked the process that imports torch for the workers
    until(lambda: len(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in errors
    assert "error" not in errors


BACKWARDS = '''"""Runs in this process, the last one first."""

from typing import final

from lossgeo import Executor
from lossgeo.runs.executors import attempt
from lossgeo.runs.training import train


@final
class Backwards(Executor):
    """Runs one after the other, in the opposite of their order."""

    def train(self, runs, interrupt):
        for run in reversed(runs):
            for news in attempt(train(run, interrupt)):
                yield run, news
'''


def test_an_executor_is_one_new_file(tmp_path: Path) -> None:
    (tmp_path / "backwards.py").write_text(BACKWARDS)
    recipe = written(tmp_path, steps=2, sweep=SEEDS)
    arguments = ("train", recipe, "--executor", "backwards", "--use", tmp_path / "backwards.py")
    done = lossgeo(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seeds = [manifest(tmp_path / line)["swept"]["seed"] for line in done.stdout.splitlines()]
    assert seeds == [2, 1, 0]
