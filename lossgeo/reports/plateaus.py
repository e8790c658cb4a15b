"""Where did training linger? Plateaus in the order in which they were met, with how long they lasted and theory beside.

Plateaus are compared by their number on the way, the first with the first. A trial that skipped a plateau counts the
next one in its place; the losses in the rows show whether plateaus of one number are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.reports import Report, Summary, error_of, plain
from lossgeo.reports.analysis.arms import settings_of
from lossgeo.reports.analysis.intervals import Estimate, in_words, mean, share
from lossgeo.reports.analysis.measurements import fullest
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.analysis.survival import Survival, survival
from lossgeo.reports.analysis.trials import counted, listed
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

KEYS = ["run", "replica", "step", "probe", "failure", "number", "censored", "strict"]
ENDS = ["lambda_min", "lambda_max"]
STEPS = ["start_step", "last_step", "leaving_steps", "predicted_steps"]
NUMBERS = ["middle_loss", *STEPS, *ENDS, *map(error_of, ENDS)]


@final
class Plateaus(Report):
    """Plateaus by probe `plateaus`: how many lasted how long, and what their middles were.

    steps: Kaplan-Meier median of the length with its 95% interval; plateaus on which training ended are censored.
    strict_share: those whose middle has a negative eigenvalue. ratio: geometric mean of the steps from the middle to
    the end over those predicted by lambda_min, with its 95% t interval.

    Source: Kaplan & Meier 1958 for censored lengths.
    """

    probe: str | None = Field(
        default=None, description="probe to read, where several looked; else each run's that looked at the most steps"
    )

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than seeds, and per plateau; a setting without any has one with counts."""
        every = study.table("plateaus").reindex(columns=[*KEYS, *NUMBERS]).astype(dict.fromkeys(NUMBERS, float))
        every = counted(fullest(every, self.probe), study.trials)
        groups: list[tuple[Row, int | None, pd.DataFrame]] = []
        for settings, runs in settings_of(study):
            mine = every[every["run"].isin(runs) & every["number"].notna()]
            numbers = sorted(int(number) for number in mine["number"].unique())
            groups += [(settings, number, mine[mine["number"] == number]) for number in numbers]
            if not numbers:
                groups.append((settings, None, mine))
        rows = tuple({**settings, "number": number, **_numbers(found)} for settings, number, found in groups)
        drawn = [
            ({"plateau": number, **settings}, curve, _predicted(found))
            for settings, number, found in groups
            if (curve := _curve(found))
        ]

        words = in_words("Kaplan-Meier", "median", [row["plateaus"] for row in rows if row["plateaus"]])

        def draw() -> Figure:
            from lossgeo.reports.figures import plateaus

            return plateaus.draw(drawn, words)

        notes = [*_notes(study, every), *([f"{words}."] if drawn else [])]
        nothing = bool(every["failure"].notna().all())
        return Summary("Plateaus", rows, tuple(notes), draw if drawn else None, empty=nothing)


def _curve(found: pd.DataFrame) -> Survival | None:
    if not len(found):
        return None
    return survival(found["last_step"] - found["start_step"], found["censored"].astype(bool))


def _predicted(found: pd.DataFrame) -> pd.DataFrame:
    """The plateaus with a prediction of when they are left."""
    return found[found["predicted_steps"].gt(0) & found["leaving_steps"].gt(0)]


def _numbers(found: pd.DataFrame) -> Row:
    curve = _curve(found)
    theory = _predicted(found)
    of_both = {**dict.fromkeys(NUMBERS, found), "leaving_steps": theory, "predicted_steps": theory}  # compared
    medians = {name: plain(rows[name].median()) for name, rows in of_both.items()}
    logs = np.log(theory["leaving_steps"].to_numpy() / theory["predicted_steps"].to_numpy())
    return {
        "plateaus": len(found),
        "censored": int(found["censored"].eq(True).sum()),
        **(curve.median if curve else Estimate()).columns("steps"),
        **{name: medians[name] for name in ("start_step", "middle_loss", *ENDS, *map(error_of, ENDS))},
        **share(int(found["strict"].eq(True).sum()), len(found)).columns("strict_share"),
        **{name: medians[name] for name in ("leaving_steps", "predicted_steps")},
        **mean(logs).map(np.exp).columns("ratio"),
        "probe": listed(found["probe"]),
    }


def _notes(study: Study, every: pd.DataFrame) -> Iterator[str]:
    without = len(study.runs) - every["run"].nunique()
    if without:
        yield f"{without} of {len(study.runs)} runs did not look for plateaus: probe `plateaus` does."
    failed = int(every["failure"].notna().sum())
    if failed:
        yield f"{failed} measurements failed: {every['failure'].dropna().iloc[0]}."
    if every["number"].notna().any():
        yield "strict_share: plateaus at whose middle an eigenvalue is negative: the surroundings of saddles."
