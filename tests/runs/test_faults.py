"""The real program on hostile machines: full and read-only disks, two at once, recipes that change under a run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import SAID, content, lossgeo, manifest, rows, start, tables, trained, until, written

LONG: dict[str, Any] = {"steps": 300_000, "log": {"every": 1000}, "evaluate": {"every": 100_000}}


def mount(*arguments: object) -> None:
    """Mount as root, or skip and say why."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 100 kB of it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_fails_the_run_and_with_space_it_completes(tmp_path: Path, disk: Path) -> None:
    changes = {"checkpoint": {"every": 5}}
    path = written(tmp_path, **changes)
    arguments = ("train", path, "--out", disk)
    found = lossgeo(*arguments, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    said, error = found.stderr.splitlines()
    assert f"{said}\n" == SAID
    (folder,) = disk.glob("tiny/*")
    assert error.startswith(f"error: {folder}: [Errno 28] No space left on device: '{folder}/")
    assert error.endswith("; free some space, and the same command goes on from the last checkpoint")
    assert not list(disk.rglob("*.part"))
    assert tables(folder), "what was written is whole"
    assert len(list(folder.glob("checkpoints/*"))) >= 2
    assert manifest(folder)["step"] > 0
    mount("-o", "remount,size=10m", disk)
    found = lossgeo(*arguments, cwd=tmp_path)
    assert (found.returncode, found.stderr, found.stdout) == (0, SAID, f"{folder}\n")
    assert content(folder) == content(trained(tmp_path / "whole", **changes).folder)


def test_a_read_only_outputs_folder_is_named_and_still_reported_on(tmp_path: Path, disk: Path) -> None:
    folder = trained(disk).folder
    path = written(tmp_path, sweep={"seed": [0, 1]})
    mount("-o", "remount,ro", disk)
    found = lossgeo("train", path, "--out", disk, cwd=tmp_path)
    assert found.returncode == 2
    assert found.stdout == f"{folder}\n", "the finished one needs nothing"
    (error,) = found.stderr.splitlines()
    assert error.startswith(f"error: {disk}/tiny/seed=1-")
    assert error.endswith("cannot be written: Read-only file system; make it writable, or choose another folder")
    found = lossgeo("probe", folder, "--probe", "trace:vectors=2", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"error: {folder}: cannot be written: Read-only file system; make it writable")
    found = lossgeo("report", "runs", disk, "--format", "json", "-q", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert '"done"' in found.stdout


def test_two_at_once_and_a_recipe_that_changes_between_stop_and_resume(tmp_path: Path) -> None:
    path = written(tmp_path, **LONG)
    first = start("train", path, cwd=tmp_path)
    until(lambda: bool(list(tmp_path.glob("outputs/tiny/*/checkpoints/*"))))
    (folder,) = tmp_path.glob("outputs/tiny/*")
    second = lossgeo("train", path, cwd=tmp_path)
    assert (second.returncode, second.stdout) == (1, "")
    assert f"in use by process {first.pid} on " in second.stderr
    assert "wait for it or stop it" in second.stderr
    assert manifest(folder)["status"] == "running"

    first.send_signal(signal.SIGINT)
    out, errors = first.communicate(timeout=60)
    assert (first.returncode, out) == (130, "")
    assert (
        errors
        == f"{SAID}outputs/tiny/{folder.name}: stopped by signal 2; the same command goes on from the checkpoint\n"
    )
    facts = manifest(folder)
    assert (facts["status"], facts["reason"]) == ("stopped", "by a signal")
    assert max(row["step"] for row in rows(folder, "steps")) <= facts["step"]
    before = content(folder)

    written(path.parent, path.name, steps=20)
    third = lossgeo("train", path, cwd=tmp_path)
    assert third.returncode == 0
    (new,) = third.stdout.splitlines()
    assert new != f"outputs/tiny/{folder.name}"
    assert third.stderr == (
        f"note: outputs/tiny/{folder.name} (stopped at step {facts['step']}) belongs to another version of tiny; "
        f"go on with it by: lossgeo train outputs/tiny/{folder.name}/recipe.yaml --out outputs\n{SAID}"
    )
    assert content(folder) == before
