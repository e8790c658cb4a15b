"""The commands and their options are what users' scripts rely on: written down here, and frozen.

Also how quickly the program answers: help and reports never load torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from lossgeo.cli import app

OPTIONS: dict[str, set[str]] = {
    "train": {
        *("--set", "--sweep", "--out", "--jobs", "--executor", "--device", "--use", "--dry-run", "--quiet", "-q"),
    },
    "probe": {"--probe", "--at", "--device", "--use", "--quiet", "-q"},
    "report": {"--format", "--out", "--figure", "--html", "--use", "--quiet", "-q"},
    "list": {"--format", "--use"},
    "schema": set(),
}
ARGUMENTS = {
    "train": ["[RECIPE...]"],
    "probe": ["RUN..."],
    "report": ["KIND[:KEY=VALUE,...]", "RUN..."],
    "list": ["[KIND]"],
}

# runs the program as `lossgeo ARGUMENTS` does and says at its end whether torch was loaded
WATCHED = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, "matplotlib" in sys.modules, file=sys.stderr))
from lossgeo.cli import main
sys.argv = ["lossgeo", *sys.argv[1:]]
main()
"""


def lossgeo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def options(command: Any) -> set[str]:
    found = [p for p in command.params if p.param_type_name == "option"]
    return {name for option in found for name in (*option.opts, *option.secondary_opts)}


def test_the_commands_are_frozen() -> None:
    assert list(commands()) == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_of_a_command_are_frozen(name: str) -> None:
    assert options(commands()[name]) == OPTIONS[name]


def test_the_options_of_the_program_are_frozen() -> None:
    # beside --version, those that typer adds for the completion of the shell
    assert options(typer.main.get_command(app)) == {"--version", "--install-completion", "--show-completion"}


@pytest.mark.parametrize("name", OPTIONS)
def test_everything_in_the_help_says_what_it_is(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name
    arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
    assert arguments == ARGUMENTS.get(name, [])


# --- the real program ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, *OPTIONS])
def test_help_answers_without_torch(name: str | None) -> None:
    done = lossgeo(*([name] if name else []), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["False False"]
    for option in OPTIONS[name] if name else OPTIONS:
        assert option in done.stdout


def test_version_answers_without_torch() -> None:
    done = lossgeo("--version")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr.splitlines() == ["False False"]


def test_report_answers_without_torch(tmp_path: Path) -> None:
    done = lossgeo("report", "runs", ".", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("False")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["train", "--nonsense"],
        ["train", "--jobs", "many"],
        ["train", "--jobs", "0"],
        ["probe", "."],
        ["report", "runs"],
        ["report", "runs", ".", "--format", "xml"],
        ["report", "nonsense", "."],
    ],
)
def test_a_wrong_command_line_ends_with_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = lossgeo(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) >= 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("False")
    assert list(tmp_path.iterdir()) == []


def test_list_and_schema_print_data_alone() -> None:
    done = lossgeo("list", "optimizers", "--format", "json")
    assert done.returncode == 0
    assert {row["name"] for row in json.loads(done.stdout)} >= {"sgd", "adam"}
    done = lossgeo("list", "nonsense")
    assert done.returncode == 2
    assert "there are " in done.stderr
    done = lossgeo("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)["title"] == "lossgeo recipe"
