"""Verdicts: one rule, and the report that applies it to what recipes claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lossgeo.components.component import Component
from lossgeo.reports import Report, Summary
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.claims import Claims, verdict
from tests.support.synthetic import recipe, write_run


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
