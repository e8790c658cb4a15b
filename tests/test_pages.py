"""The pages for who works on the code say what is: rules, folders, interfaces, benchmarks. All pages can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lossgeo.components.catalog import interfaces
from tests.support.house import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "recipes/README.md", "recipes/CLAIMS.md", "tests/README.md", "tests/bench/README.md")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def page(name: str) -> str:
    return (ROOT / name).read_text()


def cells(name: str) -> list[list[str]]:
    """The lines of all tables of a page."""
    lines = [line for line in page(name).splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name: str) -> None:
    text = page(name)
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    assert [target for target in links if not (ROOT / name).parent.joinpath(target).exists()] == []
    files = re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md|yaml))`", text)
    homes = (ROOT, (ROOT / name).parent, ROOT / "lossgeo")
    missing = [file for file in files if not any((home / file).exists() for home in homes)]
    assert [file for file in missing if file != "__init__.py"] == []  # of every folder


@pytest.mark.parametrize("name", PAGES)
def test_no_cell_of_a_table_has_many_numbers(name: str) -> None:
    assert [cell for line in cells(name) for cell in line if len(NUMBER.findall(cell)) > 4] == []


# --- tests/README.md -------------------------------------------------------------------------------------------------


def test_the_floors_are_those_that_are_tested() -> None:
    (floors,) = re.findall(r"^  `(__main__ > .+)`\.$", page("tests/README.md"), re.MULTILINE)
    assert floors == FLOORS


def test_every_folder_of_the_tests_is_named() -> None:
    tests = ROOT / "tests"
    runs = tests / "support" / "before_the_move"
    folders = {path.relative_to(tests) for path in tests.rglob("*") if path.is_dir() and runs not in path.parents}
    named = {line[0] for line in cells("tests/README.md") if len(line) == 2}
    assert {str(folder) for folder in folders if "__pycache__" not in folder.parts} == named - {"folder"}


def test_every_interface_stands_there_with_what_it_asks_for() -> None:
    said = [line for line in cells("tests/README.md") if len(line) == 3 and line[2] != "methods to write"]
    found = sorted(
        [
            cls.__module__.removeprefix("lossgeo.").replace(".", "/"),
            cls.__name__,
            ", ".join(sorted(cls.__abstractmethods__)),
        ]
        for cls in interfaces().values()
    )
    assert [line for line in said if not line[0].startswith(("`", "command"))] == found


def test_every_number_that_was_wrong_has_a_test_that_is_there() -> None:
    rows = [line for line in cells("tests/README.md") if len(line) == 5 and line[0] != "point"]
    assert {line[0] for line in rows} == {str(point) for point in range(1, 20)}
    for *_, test in rows:
        file, _, name = test.strip("`").partition("::")
        assert f"\ndef {name}(" in page(f"tests/{file}"), test


# --- tests/bench/README.md -------------------------------------------------------------------------------------------


def test_every_benchmark_is_named_with_its_command() -> None:
    text = page("tests/bench/README.md")
    files = sorted(path.stem for path in (ROOT / "tests" / "bench").glob("bench_*.py"))
    assert len(files) >= 6
    assert sorted(line[0] for line in cells("tests/bench/README.md") if line[0].startswith("`bench_")) == [
        f"`{file}.py`" for file in files
    ]
    assert sorted(re.findall(r"^    python -m tests\.bench\.(\w+)(?: OLD_.*)?$", text, re.MULTILINE)) == files
    assert "    python tests/bench/equal_tables.py OLD_CHECKOUT [NEW_CHECKOUT]\n" in text
