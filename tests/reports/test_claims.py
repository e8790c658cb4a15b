"""Verdicts: one rule, the report that applies it to what recipes claim, and the page that shows what came out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lossgeo.components.component import Component
from lossgeo.errors import UsageError
from lossgeo.recipes.documents import Document
from lossgeo.recipes.resolving import read_recipe, resolve
from lossgeo.reports import Report, Summary, label
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.claims import Claims, verdict
from tests.support.claims import (
    DEAR,
    claims,
    lines,
    made_again,
    numbers,
    read_back,
    shown,
    text,
    the_command,
    without,
)
from tests.support.synthetic import recipe, tables_of_a_run, write_run


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
        (None, (None, None), "inconclusive"),
        ((None, None), (None, None), "inconclusive: too few"),
        ((1.0, None), (0.0, 3.0), "inconclusive: too few"),
        ((1.0, 1.0), (1.0, None), "inconclusive: too few"),
        ((1.0, 1.0), (2.0, 3.0), "inconclusive: too few"),
        ((1.32, 1.32 + 4e-16), (1.0, 2.0), "inconclusive: too few"),
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
    assert (row["value"], row["low"], row["high"], row["verdict"]) == (100.0, 99.0, 100.0, "confirmed")


def test_rows_that_fit_alike_are_judged_each(tmp_path: Path) -> None:
    rows = judged(tmp_path, claim(expected=[{"low": 0.9, "high": 1.1}]), {0.1: [100] * 20, 0.2: [300] * 20})
    assert sorted(row["verdict"] for row in rows) == ["confirmed", "contradicted"]


def test_rows_of_equal_numbers_are_judged_each_and_say_which_they_are(tmp_path: Path) -> None:
    said = claim(statistic="median_steps", expected=[{"low": 90, "high": 110}])
    rows = judged(tmp_path, said, {0.1: [100] * 20, 0.2: [100] * 20, 0.3: [100] * 20})
    assert [row["value"] for row in rows] == [100.0] * 3
    assert [row["row"] for row in rows] == [f"optimizer.lr {lr}" for lr in (0.1, 0.2, 0.3)]
    assert Claims().render(Study.open([tmp_path])).notes == ("3 confirmed.",)


def test_a_number_that_rows_share_is_judged_once(tmp_path: Path) -> None:
    said = claim(report="sharpness", statistic="slope", expected=[{"low": 0.4, "high": 0.6}])
    number = 0
    for name in ("sgd", "adam"):  # of equal slopes
        for size in (16, 64, 256):
            for seed in range(5):
                number += 1
                asked = recipe(batch_size=size, seed=seed, optimizer={"name": name}, claim=said)
                write_run(tmp_path, f"{number:08x}", asked, tables_of_a_run(size ** (0.5 + seed / 1000)))
    rows = Claims().render(Study.open([tmp_path])).rows
    assert sorted(row["row"] for row in rows) == ["optimizer.name adam", "optimizer.name sgd"]
    assert [row["value"] for row in rows] == pytest.approx([0.502, 0.502])
    (row,) = [row for row in rows if row["row"] == "optimizer.name sgd"]
    assert row["verdict"] == "confirmed"


def test_one_trial_a_setting_confirms_nothing(tmp_path: Path) -> None:
    """Replicas 1, one seed: an exponent of five settings without any spread, which said slope 1.32 [1.32, 1.32]."""
    for number, lr in enumerate((0.1, 0.2, 0.4, 0.8, 1.6)):
        said = claim(statistic="slope", expected=[{"low": 0, "high": 1000}])
        asked = recipe(optimizer={"lr": lr}, claim=said)
        write_run(tmp_path, f"{number:08x}", asked, {"escapes": escapes([round(100 / lr)], 2000)})
    (row,) = Claims().render(Study.open([tmp_path])).rows
    assert row["value"] == pytest.approx(100, rel=0.01)
    assert (row["low"], row["high"], row["verdict"]) == (None, None, "inconclusive: too few")


@pytest.mark.parametrize(("trials", "said"), [(1, "too few"), (5, "too few"), (6, None), (20, None)])
def test_a_median_of_too_few_trials_confirms_nothing(trials: int, said: str | None, tmp_path: Path) -> None:
    (row,) = judged(tmp_path, claim(expected=[{"low": 0.9, "high": 1.1}]), {0.1: [100] * trials})
    assert row["value"] == 1.0
    assert row["verdict"] == ("confirmed" if said is None else f"inconclusive: {said}")


def test_a_statistic_that_is_not_there_is_inconclusive_and_no_claim_has_no_verdict(tmp_path: Path) -> None:
    (row,) = judged(tmp_path / "a", claim(expected=[{"where": {"optimizer.lr": 7}, "low": 0}]), {0.1: [100] * 5})
    assert (row["value"], row["verdict"]) == (None, "inconclusive")
    (row,) = judged(tmp_path / "b", claim(statistic="nonsense", expected=[{"low": 0}]), {0.1: [100] * 5})
    assert (row["value"], row["verdict"]) == (None, "inconclusive")
    (row,) = judged(tmp_path / "c", None, {0.1: [100] * 5})
    assert row["verdict"] is None


def test_a_claim_that_names_the_report_that_judges_is_refused_and_judged_by_nobody(tmp_path: Path) -> None:
    claim = {"says": "x", "source": "y", "report": "claims", "statistic": "value", "expected": [{"low": 0}]}
    write_run(tmp_path, "1", recipe(claim=claim))
    summary = Claims().render(Study.open([tmp_path]))
    assert [row["verdict"] for row in summary.rows] == [None]
    assert summary.empty
    with pytest.raises(UsageError, match=r"claim: no report is named 'claims'; choose from cost, critical"):
        resolve(Document(recipe(claim=claim), "x.yaml"))


# --- the page --------------------------------------------------------------------------------------------------------


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


def test_a_line_says_where_there_is_no_interval() -> None:
    row = {"recipe": "a", "where": None, "statistic": "ratio", "expected": "[0, 2]", "source": "us", "value": 1.0}
    row |= {"low": None, "high": None, "verdict": "inconclusive: too few"}
    sure = {**row, "low": 0.5, "high": 1.5, "verdict": "confirmed"}
    (line,) = lines([sure, row])
    assert line[3:7] == ["1", "none", "[0, 2]", "inconclusive: too few"]
    assert numbers(line[4]) == (None, None)


def test_the_page_is_written_as_its_test_writes_it() -> None:
    assert lines(read_back()) == shown()


def test_the_page_has_every_claim_and_a_line_for_every_expectation() -> None:
    said = [f"- [{name}]({name}.yaml): {claim['says']}." for name, claim in claims().items()]
    assert [line for line in text().splitlines() if line.startswith("- [")] == said
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
        low, high = row["low"], row["high"]
        if low is not None:
            assert low <= row["value"] <= high
            low, high = low - 1e-9, high + 1e-9  # three digits may show no width where there is one
        assert verdict((low, high), numbers(row["expected"])) == row["verdict"]


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


def test_the_page_says_of_which_commit_it_is() -> None:
    assert re.search(r"^Made whole from commit `[0-9a-f]{7,40}` on \d{4}-\d\d-\d\d\.$", text(), re.MULTILINE)


def test_a_command_without_some_recipes() -> None:
    cheap = without(the_command(), DEAR)
    assert not [name for name in DEAR if name in cheap]
    assert all(name in cheap for name in claims() if name not in DEAR)
    assert "true) |" in cheap


@pytest.mark.slow
def test_the_cheap_claims_come_out_as_the_page_says(tmp_path: Path) -> None:
    found = made_again(without(the_command(), DEAR), tmp_path)
    assert found == [line for line in shown() if line[0] not in DEAR]
    assert len({line[0] for line in found}) >= 12
