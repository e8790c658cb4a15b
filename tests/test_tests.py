"""The tests' own rules, read off their source; and a pytest that is killed leaves no training behind."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.house import imported
from tests.support.mortal import PRCTL, mortal
from tests.support.program import ENVIRONMENT, until, written

ROOT = Path(__file__).parents[1]
CLOCKS = {f"{name}{ns}" for name in ("time", "monotonic", "perf_counter", "process_time") for ns in ("", "_ns")}

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


def trees(under: str = ".") -> dict[str, ast.Module]:
    """The sources of the tests by their paths; those that measure time, under bench, are no tests."""
    files = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "tests" / under).rglob("*.py"))}
    apart = ("tests/bench/", "tests/support/before_the_move/")
    return {file: ast.parse(path.read_text()) for file, path in files.items() if not file.startswith(apart)}


def privates(tree: ast.Module) -> set[str]:
    """The names with an underscore that a test takes from lossgeo: imports, looks up in a module or replaces there."""
    private = re.compile(r"lossgeo[\w.]*\._[a-z]\w*")
    found = {name for name in imported(tree) if private.match(name)}
    modules = {"lossgeo"} | {name.split(".")[-1] for name in imported(tree) if name.startswith("lossgeo.")}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if re.match("_[a-z]", name):
                found |= {dotted for dotted in [ast.unparse(node)] if dotted.split(".")[0] in modules}
            case ast.Call(args=[ast.Name(id=of), ast.Constant(value=str(name)), *_]) if re.match("_[a-z]", name):
                found |= {f"{of}.{name}"} if of in modules else set()
            case ast.Constant(value=str(name)) if private.fullmatch(name):
                found.add(name)
    return found


def test_no_test_knows_a_private_name() -> None:
    assert {file: found for file, tree in trees().items() if (found := privates(tree))} == {}
    for reached in (
        "from lossgeo.probes._curvature import CurvatureProbe",
        "from lossgeo.runs.resuming import _tables",
        "from lossgeo.runs import resuming\nresuming._tables(run)",
        "import lossgeo.runs\nlossgeo.runs._x.y",
        "from lossgeo.runs import training\nmonkeypatch.setattr(training, '_begin', None)",
        "monkeypatch.setattr('lossgeo.runs.training._begin', None)",
    ):
        assert privates(ast.parse(reached)), reached
    for fine in ("from lossgeo import __version__", "import torch\ntorch.optim._functional, theta._version"):
        assert not privates(ast.parse(fine)), fine


def test_no_test_module_imports_another() -> None:
    modules = {file.removesuffix(".py").replace("/", ".") for file in trees() if Path(file).name.startswith("test_")}
    importing = {
        file for file, tree in trees().items() for name in imported(tree) if {name, name.rpartition(".")[0]} & modules
    }
    assert importing == set()


def defined(tree: ast.Module) -> set[str]:
    """The names that a module defines at its top level."""
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return named | {target.id for target in targets if isinstance(target, ast.Name)}


def test_what_tests_share_has_one_name() -> None:
    names = Counter(name for tree in trees("support").values() for name in defined(tree))
    assert {name for name, modules in names.items() if modules > 1} == set()


def test_only_waiting_looks_at_a_clock() -> None:
    """An assertion on time fails on a busy machine and passes on a quick one: count calls, steps, products, files."""
    looks = Counter(
        (file, ast.unparse(node))
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time" and node.attr in CLOCKS
    )
    assert looks == {("tests/support/program.py", "time.monotonic"): 2}, "in `until`"
    taken = {name for tree in trees().values() for name in imported(tree)}
    assert not {name for name in taken if name.split(".")[0] == "timeit" or name.startswith("time.")}


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
