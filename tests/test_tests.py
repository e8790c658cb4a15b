"""The tests' own rules, read off their source; and a pytest that is killed leaves no training behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.mortal import PRCTL, mortal
from tests.support.program import ENVIRONMENT, until, written

ROOT = Path(__file__).parents[1]

# five trainings in all the ways in which tests start them
CHILD = """
import sys, threading
from pathlib import Path
from tests.support.program import lossgeo, shell, start
one, two, three, four = (Path(folder) for folder in sys.argv[1:])
start("train", "tiny.yaml", cwd=one)
start("train", "tiny.yaml", "--jobs", 2, cwd=two)
threading.Thread(target=lambda: lossgeo("train", "tiny.yaml", cwd=three)).start()
shell("true; lossgeo train - < tiny.yaml | cat", four)
"""


def inside(folder: Path) -> set[int]:
    """The processes that work in a folder or below it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone, or a zombie
            if (process / "cwd").readlink().is_relative_to(folder):
                found.add(int(process.name))
    return found


@pytest.mark.skipif(PRCTL is None, reason="this kernel cannot be asked to end a process with its parent")
def test_a_killed_pytest_leaves_no_training_behind(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three", "four")]
    for folder in folders:
        folder.mkdir()
        seeds = {"sweep": {"seed": {"range": 2}}} if folder.name == "two" else {}
        written(folder, steps=300_000, log={"every": 1000}, evaluate={"every": 100_000}, **seeds)
    child = subprocess.Popen(mortal(sys.executable, "-c", CHILD, *folders), cwd=ROOT, env=ENVIRONMENT)
    until(lambda: len(list(tmp_path.glob("*/outputs/tiny/*/checkpoints/step-00000020*"))) == 5)
    # a program each, two workers with what they are forked from, and a shell with its reader
    assert len(inside(tmp_path)) >= 4 + 3 + 2
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    until(lambda: not inside(tmp_path), seconds=20)
