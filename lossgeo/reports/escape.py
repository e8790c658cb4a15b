"""How long do trials stay at a saddle? Survival, its median beside theory, and how it depends on what was swept.

The unit is a trial: those of runs that differ in the seed alone are pooled. A trial that has not left is censored, not
dropped: a mean over the others would be short by just the slow ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from pydantic import Field

from lossgeo.reports import Report, Summary, plain
from lossgeo.reports.analysis.arms import Arm, families_of, laws_of, settings_of
from lossgeo.reports.analysis.intervals import Estimate, in_words, share
from lossgeo.reports.analysis.power_laws import Law
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.analysis.survival import logrank, survival
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

COLUMNS = ["run", "replica", "saddle", "start_step", "escape_step", "censored", "last_step", "ended", "underflow"]


@final
class Escape(Report):
    """Escape from saddles: trials, the Kaplan-Meier median with its 95% interval, and what theory predicted.

    ratio: median over the median prediction. stage_ratio: median over that of the same trials at the saddle before.
    logrank_p: that the arm follows the same law as the first arm. Where one setting takes at least four
    values and all trials escape, the law T = a + b (x^e - 1) / e is fitted to the mean times: exponent is e, 0 for a
    logarithm, and slope the b of the law that is named.

    Source: Kaplan & Meier 1958 and Mantel 1966 for censored times.
    """

    saddle: int | None = Field(default=None, ge=0, description="number of the saddle; null: each in rows of its own")

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than the seed, and per saddle; without trials it has counts only."""
        arms = self._arms(study)
        families = families_of(arms)
        laws = laws_of(families)
        several = len({arm.saddle for arm in arms}) > 1
        rows = tuple(_row(arm, arms, several, laws.get(id(arm))) for arm in arms)

        words = in_words("Kaplan-Meier", "median", [row["trials"] for row in rows if row["trials"]])

        def draw() -> Figure:
            from lossgeo.reports.figures import escape

            return escape.draw(arms, rows, families, words)

        drawable = any(arm.curve for arm in arms)
        notes = (*_notes(study, arms, rows), *([f"{words}."] if drawable else []))
        of_law = [id(laws.get(id(arm), arm)) for arm in arms]  # an arm without a law shares it with none
        shared = dict.fromkeys(("law", "exponent", "slope"), of_law)
        return Summary("Escape from saddles", rows, notes, draw if drawable else None, shared, not drawable)

    def _arms(self, study: Study) -> list[Arm]:
        every = study.table("escapes").reindex(columns=[*COLUMNS, "predicted_steps"])
        if self.saddle is not None:
            every = every[every["saddle"] == self.saddle]
        until = every["escape_step"].fillna(every["last_step"])
        every = every.assign(steps=(until - every["start_step"]).astype(float))
        arms = []
        for settings, runs in settings_of(study):
            mine = every[every["run"].isin(runs)]
            if not len(mine):
                arms.append(Arm(settings, self.saddle, mine, None))
            for saddle, trials in mine.groupby("saddle", sort=True):
                curve = survival(trials["steps"], trials["censored"].astype(bool))
                arms.append(Arm(settings, int(plain(saddle)), trials, curve))
        return arms


def _row(arm: Arm, arms: list[Arm], several: bool, fitted: Law | None) -> Row:
    first = next(other for other in arms if other.saddle == arm.saddle)
    curve, ended, prediction = arm.curve, arm.trials["ended"], arm.prediction
    steps = curve.median if curve else Estimate()
    ratio = steps.map(lambda s: s / prediction if s else None) if prediction else Estimate()
    return {
        **arm.settings,
        **({"saddle": arm.saddle} if several else {}),
        "trials": len(arm.trials),
        "escaped": int((~arm.censored).sum()),
        "censored": int(arm.censored.sum()),
        "diverged": int((ended == "diverged").sum()),
        "underflow": int(arm.trials["underflow"].sum()),
        **share(int((~arm.censored).sum()), len(arm.trials)).columns("escaped_share"),
        "median_steps": steps.value,
        "low": steps.low,
        "high": steps.high,
        "predicted_steps": prediction,
        **ratio.columns("ratio"),
        **arm.stage_ratio(arms).columns("stage_ratio"),
        "logrank_p": None if arm is first or not (curve and first.curve) else logrank(first.sample, arm.sample),
        "law": fitted.name if fitted else None,
        **(fitted.exponent if fitted else Estimate()).columns("exponent"),
        **(fitted.slope if fitted else Estimate()).columns("slope"),
    }


def _notes(study: Study, arms: list[Arm], rows: tuple[Row, ...]) -> Iterator[str]:
    without = len(study.runs) - len({run for arm in arms for run in arm.trials["run"]})
    if without:
        yield f"{without} of {len(study.runs)} runs watched no saddle: `escape: {{distance: ...}}` in a recipe does."
    going = [run for run in study.runs if run.status not in ("done", "diverged")]
    if going:
        yield f"{len(going)} runs have not ended; their trials count as censored where they stand."
    stuck = sum(row["underflow"] for row in rows)
    if stuck:
        yield (
            f"{stuck} trials have nothing left along the way out: it fell below the smallest number of the precision,"
            " so that they would never leave, whatever theory says."
        )
    if any(row["trials"] and row["median_steps"] is None for row in rows):
        yield "Where fewer than half of the trials escaped there is no median: raise `steps`."
    if any(row["exponent"] is not None for row in rows):
        yield "exponent: of the swept number in T = a + b (x^e - 1) / e; slope: b of T = a + b ln x, or of a + b x^k."
