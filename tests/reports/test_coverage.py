"""Coverage of the intervals that reports print: a few cells of the table in tests/README.md, made again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.coverage import BRACKET, SIZES, STATISTICS, cell, coverage

PAGE = Path(__file__).parents[1] / "README.md"


def shown() -> dict[str, list[str]]:
    """The cells of the page's table by the statistic's name."""
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return {line[0]: line[2:] for line in lines if len(line) == 2 + len(SIZES)}


def test_the_page_has_every_statistic_and_no_interval_that_holds_too_little_or_too_much() -> None:
    head, *_ = (line for line in shown().items() if line[0] == "statistic")
    assert head == ("statistic", [str(n) for n in SIZES])
    cells = {name: found for name, found in shown().items() if not name.startswith(("statistic", "---"))}
    assert list(cells) == [name for name, *_ in (*STATISTICS, BRACKET)]
    bracket = cells.pop(BRACKET[0])
    for name, found in cells.items():
        assert all(part == "-" or 90 <= int(part) <= 99 for part in found), name
        # once printed, always printed
        assert re.fullmatch("(-)*(x)*", "".join("-" if part == "-" else "x" for part in found)), name
    assert all(int(part) >= 95 for part in bracket)


@pytest.mark.parametrize("statistic", [name for name, *_ in STATISTICS])
def test_where_the_page_has_no_interval_none_is_printed(statistic: str) -> None:
    (simulation,) = (found for name, _, _, found in STATISTICS if name == statistic)
    for n, part in zip(SIZES, shown()[statistic], strict=True):
        if part == "-":
            assert cell(coverage(simulation, n, 20)) == "-", n


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6, 20])
@pytest.mark.parametrize("statistic", [name for name, *_ in STATISTICS])
def test_the_table_comes_out_as_the_page_says(statistic: str, n: int) -> None:
    """By the same seeds, so to the last digit where all of them are taken."""
    ((_, seeds, simulation),) = (tuple(rest) for name, *rest in STATISTICS if name == statistic)
    assert cell(coverage(simulation, n, seeds)) == shown()[statistic][SIZES.index(n)]
