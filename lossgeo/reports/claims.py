"""What became of the claims? One row an expectation, with its verdict.

A claim names a column that its report publishes, and rows by the settings in them. Nothing in a recipe is evaluated as
code, and whatever a claim is judged by can be read in the report itself: statistic x by columns x_low and x_high.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, final

from lossgeo.components.finding import find
from lossgeo.reports import Report, Summary, label
from lossgeo.reports.analysis.study import RunData, Study
from lossgeo.tables import Row

OTHER_ENDS = {"median_steps": ("low", "high")}  # columns of report `escape`, older than the names x_low and x_high


@final
class Claims(Report):
    """The verdict on every claim: confirmed, inconclusive or contradicted.

    confirmed: the statistic's 95% interval lies inside the expected range; contradicted: outside; inconclusive: across
    its edge, or there is no interval. Every expectation has a row; where several rows of the report fit it, it has one
    for each.
    """

    def render(self, study: Study) -> Summary:
        """A row for each expectation of each recipe's claim; a recipe without one has a row that says so."""
        recipes: dict[str, list[RunData]] = {}
        for run in study.runs:
            recipes.setdefault(str(run.recipe["name"]), []).append(run)
        rows = tuple(row for name, runs in recipes.items() for row in _judged(name, runs))
        counts = Counter(row["verdict"] for row in rows if row["verdict"] is not None)
        notes = [f"{', '.join(f'{n} {word}' for word, n in sorted(counts.items()))}."] if counts else []
        silent = [name for name, runs in recipes.items() if not (runs[0].recipe.get("claim") or {}).get("expected")]
        if silent:
            notes.append(f"Nothing is expected in the recipes {', '.join(silent)}: `claim.expected` would say what.")
        return Summary("Claims", rows, tuple(notes))


def _judged(name: str, runs: list[RunData]) -> Iterator[Row]:
    claim = runs[0].recipe.get("claim") or {}
    shared = {"claim": claim.get("says"), "recipe": name}
    command = f"lossgeo train {shlex.quote(name)}"
    if claim:
        command += f" | lossgeo report {claim['report']} -"
    after = {"source": claim.get("source"), "command": command}
    statistic, expected = claim.get("statistic"), claim.get("expected") or []
    if not statistic or not expected:
        yield {**shared, **_numbers(statistic, None), "expected": None, "where": None, "verdict": None, **after}
        return
    interface: Any = Report  # abstract, which mypy takes for a mistake here
    report: Report = find(interface, claim["report"])()
    found = report.render(Study(tuple(runs))).rows
    for expectation in expected:
        where = expectation.get("where") or {}
        bounds = (expectation.get("low"), expectation.get("high"))
        ends = [end if bound is None else label(bound) for bound, end in zip(bounds, ("-inf", "inf"), strict=True)]
        words = {
            "expected": f"[{', '.join(ends)}]",
            "where": ", ".join(f"{key} {label(value)}" for key, value in where.items()) or None,
        }
        fitting = [row for row in found if all(row.get(key) == value for key, value in where.items())]
        different: dict[Any, Row | None] = {tuple(_numbers(statistic, row).values()): row for row in fitting}
        different = different or {None: None}
        for row in different.values():
            interval = None if row is None else _interval(statistic, row)
            yield {**shared, **_numbers(statistic, row), **words, "verdict": verdict(interval, bounds), **after}


def _numbers(statistic: str | None, row: Row | None) -> Row:
    interval = None if row is None or statistic is None else _interval(statistic, row)
    low, high = interval or (None, None)
    return {"statistic": statistic, "value": (row or {}).get(statistic or ""), "low": low, "high": high}


def _interval(statistic: str, row: Row) -> tuple[float, float] | None:
    """The interval of a statistic in a report's row; None where the row has none."""
    low, high = (row.get(name) for name in OTHER_ENDS.get(statistic, (f"{statistic}_low", f"{statistic}_high")))
    return None if low is None or high is None else (float(low), float(high))


Verdict = Literal["confirmed", "inconclusive", "contradicted"]


def verdict(interval: tuple[float, float] | None, expected: tuple[float | None, float | None]) -> Verdict:
    """confirmed: the interval lies inside the expected range; contradicted: outside it; inconclusive: across its edge.

    `expected` may be open at either end (None). Without an interval nothing is known, so it is inconclusive.
    """
    if interval is None:
        return "inconclusive"
    low, high = interval
    at_least = float("-inf") if expected[0] is None else expected[0]
    at_most = float("inf") if expected[1] is None else expected[1]
    if high < at_least or low > at_most:
        return "contradicted"
    return "confirmed" if at_least <= low and high <= at_most else "inconclusive"
