"""Verdicts: one rule, the report that applies it to what recipes claim, and the page that shows what came out."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lossgeo.components.component import Component
from lossgeo.recipes.resolving import read_recipe, shipped_recipes
from lossgeo.reports import Report, Summary, label
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.claims import Claims, verdict
from tests.support.synthetic import recipe, write_run

PAGE = (Path(__file__).parents[2] / "recipes" / "CLAIMS.md").read_text()
WORST = ("contradicted", "inconclusive", "confirmed")


@pytest.mark.parametrize(
    ("interval", "expected", "said"),
    [
        ((1.0, 2.0), (0.0, 3.0), "confirmed"),
        ((1.0, 2.0), (1.0, 2.0), "confirmed"),
        ((1.0, 2.0), (1.5, 3.0), "inconclusive"),
        ((1.0, 2.0), (0.0, 1.5), "inconclusive"),
        ((1.0, 2.0), (2.5, 3.0), "contradicted"),
        ((1.0, 2.0), (-1.0, 0.5), "contradicted"),
        ((0.0, 4.0), (1.0, 2.0), "inconclusive"),
        ((1.0, 2.0), (0.5, None), "confirmed"),
        ((1.0, 2.0), (None, 0.5), "contradicted"),
        ((1.0, 1.0), (1.0, None), "confirmed"),
        (None, (None, None), "inconclusive"),
    ],
)
def test_the_rule(interval: Any, expected: Any, said: str) -> None:
    assert verdict(interval, expected) == said


def escapes(times: list[int], budget: int = 1000) -> list[dict[str, Any]]:
    return [
        {
            "replica": number,
            "step": budget,
            "saddle": 0,
            "start_step": 0,
            "escape_step": time if time < budget else None,
            "censored": time >= budget,
            "last_step": min(time, budget),
            "ended": "escaped" if time < budget else "budget",
            "underflow": False,
            "predicted_steps": 100.0,
        }
        for number, time in enumerate(times)
    ]


def claim(**changes: Any) -> dict[str, Any]:
    return {"says": "it takes 100 steps", "source": "us", "report": "escape", "statistic": "ratio", **changes}


def judged(tmp_path: Path, said: dict[str, Any] | None, times: dict[float, list[int]]) -> list[dict[str, Any]]:
    for number, (lr, of_lr) in enumerate(times.items()):
        asked = recipe(optimizer={"lr": lr}, **({} if said is None else {"claim": said}))
        write_run(tmp_path, f"{number:08x}", asked, {"escapes": escapes(of_lr)})
    return list(Claims().render(Study.open([tmp_path])).rows)


def test_every_expectation_has_a_row_with_its_verdict(tmp_path: Path) -> None:
    expected = [
        {"where": {"optimizer.lr": 0.1}, "low": 0.9, "high": 1.1},
        {"where": {"optimizer.lr": 0.2}, "low": 0.9, "high": 1.1},
        {"where": {"optimizer.lr": 0.3}, "low": 0.9, "high": 1.1},
    ]
    steady, slow, spread = [100] * 20, [300] * 20, list(range(50, 250, 10))
    rows = judged(tmp_path, claim(expected=expected), {0.1: steady, 0.2: slow, 0.3: spread})
    assert [row["verdict"] for row in rows] == ["confirmed", "contradicted", "inconclusive"]
    assert [row["value"] for row in rows[:2]] == [1.0, 3.0]
    assert {row["expected"] for row in rows} == {"[0.9, 1.1]"}
    assert rows[0]["command"] == "lossgeo train synthetic | lossgeo report escape -"
    assert rows[1]["where"] == "optimizer.lr 0.2"


class Scattered(Report):
    """Columns in an order that says nothing."""

    def render(self, study: Study) -> Summary:
        row = {"high": 9.0, "x_high": 1.5, "low": 8.0, "x": 1.0, "y_low": 4.0, "y_high": 5.0, "x_low": 0.5, "z": 1.0}
        return Summary("Scattered", ({**row, "half": 1.0, "half_low": 0.5},))


@pytest.mark.parametrize(
    ("statistic", "numbers", "said"),
    [
        ("x", (1.0, 0.5, 1.5), "confirmed"),  # y's interval, which stands behind x, would contradict
        ("z", (1.0, None, None), "inconclusive"),
        ("half", (1.0, None, None), "inconclusive"),
    ],
)
def test_an_interval_is_found_by_its_name_wherever_it_stands(
    statistic: str, numbers: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(interface: type[Component], name: str) -> type[Component]:
        return Scattered

    monkeypatch.setattr("lossgeo.reports.claims.find", found)
    (row,) = judged(tmp_path, claim(statistic=statistic, expected=[{"low": 0.0, "high": 2.0}]), {0.1: [100]})
    assert (row["value"], row["low"], row["high"]) == numbers
    assert row["verdict"] == said


def test_the_median_of_escapes_has_ends_of_other_names(tmp_path: Path) -> None:
    (row,) = judged(tmp_path, claim(statistic="median_steps", expected=[{"low": 90, "high": 110}]), {0.1: [100] * 20})
    assert (row["value"], row["low"], row["high"], row["verdict"]) == (100.0, 100.0, 100.0, "confirmed")


def test_rows_that_fit_alike_are_judged_each(tmp_path: Path) -> None:
    rows = judged(tmp_path, claim(expected=[{"low": 0.9, "high": 1.1}]), {0.1: [100] * 20, 0.2: [300] * 20})
    assert sorted(row["verdict"] for row in rows) == ["confirmed", "contradicted"]


def test_a_statistic_that_is_not_there_is_inconclusive_and_no_claim_has_no_verdict(tmp_path: Path) -> None:
    (row,) = judged(tmp_path / "a", claim(expected=[{"where": {"optimizer.lr": 7}, "low": 0}]), {0.1: [100] * 5})
    assert (row["value"], row["verdict"]) == (None, "inconclusive")
    (row,) = judged(tmp_path / "b", claim(statistic="nonsense", expected=[{"low": 0}]), {0.1: [100] * 5})
    assert (row["value"], row["verdict"]) == (None, "inconclusive")
    (row,) = judged(tmp_path / "c", None, {0.1: [100] * 5})
    assert row["verdict"] is None


# --- the page --------------------------------------------------------------------------------------------------------


def claims() -> dict[str, dict[str, Any]]:
    """The claims of the shipped recipes that expect something, by the recipe's name."""
    found = {path.stem: read_recipe(path.stem).plain.get("claim") or {} for path in shipped_recipes().glob("*.yaml")}
    return {name: claim for name, claim in sorted(found.items()) if claim.get("expected")}


def shown() -> list[list[str]]:
    """The page's table, cell by cell."""
    head, _, *lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert head == "| recipe | where | statistic | found | 95% interval | expected | verdict | source |"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of `report claims` as the page has them: one line for all rows of one expectation of a recipe."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["where"] or ""), []).append(row)
    found = []
    for (name, where), mine in sorted(groups.items(), key=lambda item: item[0][0]):  # of a recipe, in its own order
        values = sorted({f"{row['value']:.3g}" for row in mine}, key=float)
        value = " to ".join(dict.fromkeys((values[0], values[-1])))
        interval = f"[{min(row['low'] for row in mine):.3g}, {max(row['high'] for row in mine):.3g}]"
        worst = min((row["verdict"] for row in mine), key=WORST.index)
        shared = mine[0]
        found.append([name, where, shared["statistic"], value, interval, shared["expected"], worst, shared["source"]])
    return found


def numbers(interval: str) -> tuple[float, float]:
    low, high = map(float, interval.strip("[]").split(", "))
    return low, high


def read_back() -> list[dict[str, Any]]:
    """The page's table as rows of `report claims`."""
    rows = []
    for name, where, statistic, found, interval, expected, said, source in shown():
        low, high = numbers(interval)
        row = {"recipe": name, "where": where or None, "statistic": statistic, "low": low, "high": high}
        row |= {"expected": expected, "verdict": said, "source": source}
        rows += [{**row, "value": float(value)} for value in found.split(" to ")]
    return rows


def test_rows_of_one_expectation_become_one_line() -> None:
    shared = {"recipe": "b", "where": None, "statistic": "ratio", "expected": "[0, 2]", "source": "us"}
    rows = [
        {**shared, "value": 1.5, "low": 1.25, "high": 1.75, "verdict": "confirmed"},
        {**shared, "value": 0.5, "low": 1 / 3, "high": 0.75, "verdict": "inconclusive"},
        {**shared, "value": 1.0, "low": 0.5, "high": 1.5, "verdict": "confirmed"},
        {**shared, "recipe": "a", "where": "lr 0.1", "value": 0, "low": 0, "high": 0.0183, "verdict": "confirmed"},
    ]
    assert lines(rows) == [
        ["a", "lr 0.1", "ratio", "0", "[0, 0.0183]", "[0, 2]", "confirmed", "us"],
        ["b", "", "ratio", "0.5 to 1.5", "[0.333, 1.75]", "[0, 2]", "inconclusive", "us"],
    ]


def test_the_page_is_written_as_its_test_writes_it() -> None:
    assert lines(read_back()) == shown()


def test_the_page_has_every_claim_and_a_line_for_every_expectation() -> None:
    said = [f"- [{name}]({name}.yaml): {claim['says']}." for name, claim in claims().items()]
    assert [line for line in PAGE.splitlines() if line.startswith("- [")] == said
    expected = []
    for name, claim in claims().items():
        for expectation in claim["expected"]:
            where = ", ".join(f"{key} {label(value)}" for key, value in expectation.get("where", {}).items())
            low, high = (
                end if expectation.get(key) is None else label(expectation[key])
                for key, end in (("low", "-inf"), ("high", "inf"))
            )
            expected.append([name, where, claim["statistic"], f"[{low}, {high}]", claim["source"]])
    assert [[*row[:3], row[5], row[7]] for row in shown()] == expected
    assert len(claims()) >= 18


def test_every_verdict_on_the_page_follows_from_its_interval() -> None:
    for row in read_back():
        assert row["low"] <= row["value"] <= row["high"]
        assert verdict((row["low"], row["high"]), numbers(row["expected"])) == row["verdict"]


def the_command() -> str:
    (block,) = re.findall(r"^((?:    .+\n)+)", PAGE, re.MULTILINE)
    return str(block)


def test_the_command_trains_every_recipe_with_a_claim_over_ten_seeds() -> None:
    trained: dict[str, str] = {}
    for line in re.findall(r"lossgeo train ([^;)]+)", the_command().replace("\\\n", " ")):
        names, options = line.split("--sweep")
        key, seeds = options.split()[0].split("=")
        assert seeds == "0,1,2,3,4,5,6,7,8,9"
        trained |= dict.fromkeys(names.split(), key)
    # where a recipe repeats itself over draws of a surface, these are its seeds
    drawn = {name: "surface.seed" in read_recipe(name).plain.get("sweep", {}) for name in claims()}
    assert trained == {name: "surface.seed" if of_surface else "seed" for name, of_surface in drawn.items()}


@pytest.mark.slow
def test_the_page_is_what_its_command_gives(tmp_path: Path) -> None:
    command = the_command().replace("lossgeo", f"{shlex.quote(sys.executable)} -m lossgeo").rstrip() + " --format json"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert shown() == lines(json.loads(done.stdout))
