"""The README says what is: its commands print what it shows, its recipe and its component work, its speeds are those of
the page of benchmarks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import lossgeo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def block(marker: str) -> list[str]:
    """The indented lines that follow `<!-- marker -->`."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n((?:    .*\n)+)", README)
    assert found, marker
    return [line.removeprefix("    ") for line in found[1].splitlines()]


def test_it_is_short_and_its_picture_exists() -> None:
    assert len(README.splitlines()) <= 120
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert pictures == ["recipes/sharpness_vs_batch_size.png"]
    assert (ROOT / pictures[0]).read_bytes().startswith(b"\x89PNG")


def test_the_two_set_up_commands_are_those_that_ci_runs() -> None:
    commands = re.findall(r"^    (pip install .+)$", README, re.MULTILINE)
    assert commands == [
        "pip install 'torch==2.13.*' -e . && lossgeo train",
        "pip install 'torch==2.13.*' -e '.[test]' && pytest",
    ]


def test_its_speeds_are_those_of_the_page_of_benchmarks() -> None:
    said = README.partition("## How fast it is\n")[2]
    page = (ROOT / "tests" / "bench" / "README.md").read_text()
    numbers = re.findall(r"\d[\d,.]*\d|\d", said)
    assert len(numbers) >= 15
    assert [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", page)] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands are run one after the other."""
    return tmp_path_factory.mktemp("newcomer")


@pytest.mark.parametrize("command", ["train", "probe", "report"])
def test_a_command_prints_what_the_readme_shows(command: str, home: Path) -> None:
    first, *shown = block(f"true output: {command}")
    assert first.startswith(f"$ lossgeo {command}")
    if command != "train":
        lossgeo("train", cwd=home)  # the run is there already where the tests before this one ran
    line = first.removeprefix("$ ").replace("lossgeo", f"{shlex.quote(sys.executable)} -m lossgeo", 1)
    done = subprocess.run(["bash", "-c", line], cwd=home, capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()
    assert len(printed) == len(shown)
    for said, line in zip(shown, printed, strict=True):
        if command != "report":
            assert said == line
            continue
        # words to the letter; numbers to 2%, since at the edge of stability the last bits of another CPU grow
        assert NUMBER.sub("#", said) == NUMBER.sub("#", line)
        for a, b in zip(NUMBER.findall(said), NUMBER.findall(line), strict=True):
            assert float(a) == pytest.approx(float(b), rel=0.02)


@pytest.mark.slow
def test_the_headline_is_what_its_command_gives(tmp_path: Path) -> None:
    said = re.search(r"batch_size\^(\S+) \[(\S+), (\S+)\] over (\d+) seeds", README)
    assert said
    (line,) = re.findall(r"^    (lossgeo train sharpness_vs_batch_size .+)$", README, re.MULTILINE)
    command = line.replace("lossgeo", f"{shlex.quote(sys.executable)} -m lossgeo") + " --format json"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 8
    assert {row["used"] for row in rows} == {int(said[4])}
    for key, number in zip(("slope", "slope_low", "slope_high"), said.groups(), strict=False):
        assert rows[0][key] == pytest.approx(float(number), abs=0.01)  # two decimals, and other CPUs' rounding
    assert f"note: lambda_max ~ {said[0].partition(' over')[0]}" in done.stderr
    assert (tmp_path / "sharpness.png").stat().st_size > 10_000


def test_the_example_component_works_as_it_stands(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    (tmp_path / "sign_descent.py").write_text(code)
    sets = ["--set", "optimizer={name: sign_descent, lr: 0.01}", "--set", "steps=20", "--set", "probes=[]"]
    done = lossgeo("train", *sets, "--use", "sign_descent.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = lossgeo("report", "runs", done.stdout.strip(), "--format", "csv", cwd=tmp_path)
    header, row = (line.split(",") for line in report.stdout.splitlines())
    assert float(dict(zip(header, row, strict=True))["train_loss"]) < 0.2  # from 0.57 at the start


def test_the_recipe_in_the_readme_is_one(tmp_path: Path) -> None:
    text = README.partition("## A recipe\n\n")[2].partition("\n\n")[0]
    (tmp_path / "mine.yaml").write_text("\n".join(line.removeprefix("    ") for line in text.splitlines()))
    done = lossgeo("train", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 15
