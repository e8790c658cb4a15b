"""What became of the claims? One row an expectation, with its verdict.

A claim names a column that its report publishes, and rows by the settings in them. Nothing in a recipe is evaluated as
code, and whatever a claim is judged by can be read in the report itself: statistic x by columns x_low and x_high.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal, final

from lossgeo.components.finding import find
from lossgeo.reports import Report, Summary, ends_of, label
from lossgeo.reports.analysis.study import RunData, Study
from lossgeo.tables import Row

NAMES = ("run", "replica", "step", "parameters", "saddle", "number")  # columns that tell rows apart beside settings
ALIKE = 1e-12  # the rounding of ends between which there is nothing


@final
class Claims(Report):
    """The verdict on every claim: confirmed, inconclusive or contradicted.

    confirmed: the statistic's 95% interval lies inside the expected range; contradicted: outside; inconclusive: across
    its edge, or there is no interval; inconclusive: too few, where more samples would have one. Every expectation has a
    row; where several rows of the report fit it, it has one for each, and column `row` says which. A number that
    several rows share, a slope through them, is judged once.
    """

    def render(self, study: Study) -> Summary:
        """A row for each expectation of each recipe's claim; without one, or judged by this report, it has one too."""
        recipes: dict[str, list[RunData]] = {}
        for run in study.runs:
            recipes.setdefault(str(run.recipe["name"]), []).append(run)
        rows = tuple(row for name, runs in recipes.items() for row in _judged(name, runs))
        counts = Counter(row["verdict"] for row in rows if row["verdict"] is not None)
        notes = [f"{', '.join(f'{n} {word}' for word, n in sorted(counts.items()))}."] if counts else []
        silent = [row["recipe"] for row in rows if row["expected"] is None]
        if silent:
            notes.append(
                f"Nothing to judge in the recipes {', '.join(silent)}: a claim needs `expected`, `statistic` and a"
                " report other than this one."
            )
        return Summary("Claims", rows, tuple(notes), empty=not counts)


def _judged(name: str, runs: list[RunData]) -> Iterator[Row]:
    claim = runs[0].recipe.get("claim") or {}
    shared = {"claim": claim.get("says"), "recipe": name}
    command = f"lossgeo train {shlex.quote(name)}"
    if claim:
        command += f" | lossgeo report {claim['report']} -"
    after = {"source": claim.get("source"), "command": command}
    statistic, expected = claim.get("statistic"), claim.get("expected") or []
    if not statistic or not expected or claim["report"] == Claims.component_name():
        yield {
            **shared,
            **_numbers(statistic, None),
            "expected": None,
            "where": None,
            "row": None,
            "verdict": None,
            **after,
        }
        return
    interface: Any = Report  # abstract, which mypy takes for a mistake here
    report: Report = find(interface, claim["report"])()
    study = Study(tuple(runs))
    found = report.render(study)
    apart = [key for key in (*study.swept, *NAMES) if len({row.get(key) for row in found.rows}) > 1]
    marks = found.shared.get(statistic, range(len(found.rows)))
    for expectation in expected:
        where = expectation.get("where") or {}
        bounds = (expectation.get("low"), expectation.get("high"))
        ends = [end if bound is None else label(bound) for bound, end in zip(bounds, ("-inf", "inf"), strict=True)]
        words = {
            "expected": f"[{', '.join(ends)}]",
            "where": ", ".join(f"{key} {label(value)}" for key, value in where.items()) or None,
        }
        fitting: dict[Hashable, list[Row]] = {}
        for mark, row in zip(marks, found.rows, strict=True):
            if all(row.get(key) == value for key, value in where.items()):
                fitting.setdefault(mark, []).append(row)
        for alike in fitting.values() or [[]]:
            first = alike[0] if alike else None
            interval = None if first is None else _interval(statistic, first)
            which = {"row": _which(alike, apart)}
            said = {"verdict": verdict(interval, bounds)}
            yield {**shared, **_numbers(statistic, first), **words, **which, **said, **after}


def _which(rows: list[Row], apart: Sequence[str]) -> str | None:
    """What rows that share a number have in common, of the columns that tell a report's rows apart."""
    same = (key for key in apart if rows and rows[0][key] is not None and len({row[key] for row in rows}) == 1)
    return ", ".join(f"{key} {label(rows[0][key])}" for key in same) or None


def _numbers(statistic: str | None, row: Row | None) -> Row:
    interval = None if row is None or statistic is None else _interval(statistic, row)
    low, high = interval or (None, None)
    return {"statistic": statistic, "value": (row or {}).get(statistic or ""), "low": low, "high": high}


Ends = tuple[float | None, float | None]


def _interval(statistic: str, row: Row) -> Ends | None:
    """The interval of a statistic in a report's row; None where the report has no column for it."""
    low, high = ends_of(statistic)
    return (row[low], row[high]) if {low, high} <= row.keys() else None


Verdict = Literal["confirmed", "inconclusive", "inconclusive: too few", "contradicted"]


def verdict(interval: Ends | None, expected: Ends) -> Verdict:
    """confirmed: the interval lies inside the expected range; contradicted: outside it; inconclusive: across its edge.

    `expected` may be open at either end (None). A statistic without any interval is inconclusive; one of too few
    samples to have an interval is said to be of too few. So is an interval without width: all samples were equal, which
    is no sign that the next one is.
    """
    if interval is None:
        return "inconclusive"
    low, high = interval
    if low is None or high is None or math.isclose(low, high, rel_tol=ALIKE, abs_tol=ALIKE):
        return "inconclusive: too few"
    at_least = float("-inf") if expected[0] is None else expected[0]
    at_most = float("inf") if expected[1] is None else expected[1]
    if high < at_least or low > at_most:
        return "contradicted"
    return "confirmed" if at_least <= low and high <= at_most else "inconclusive"
