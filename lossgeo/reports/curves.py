"""Training curves: loss, accuracy, the largest eigenvalue with its threshold beside it, and the trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.errors import UsageError
from lossgeo.reports import OperatorName, ParametersGlob, ProbeKey, Report, Summary, choice_note
from lossgeo.reports.analysis.study import WHOLE, Study
from lossgeo.reports.analysis.trials import shown

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

CURVATURE = ["lambda_max", "lambda_max_low", "lambda_max_high", "trace", "trace_low", "trace_high"]
# by an operator, whose threshold its largest eigenvalue is compared with: plain descent has D = 1
MATCHING = {
    "hessian": ("hessian",),
    "finite_difference": ("hessian",),
    "preconditioned": ("hessian", "preconditioned"),
}
MEASURED = ["train_loss", "test_loss", "train_accuracy", "test_accuracy", *CURVATURE, "threshold"]


@final
class Curves(Report):
    """Loss, accuracy, lambda_max, its threshold and the trace over steps, one line a run, with bands of 95% intervals.

    A row stands wherever a run was evaluated or probed, with means over the trials used: those on their way, of which
    all is known that is known of any. diverged, ended (otherwise) and failed are the others. The interval of lambda_max
    is its bracket over data, where it was measured on a sample, else the solver's error; that of the trace holds the
    error over random vectors too. threshold is the curvature above which the run's optimizer, with all its keys, is
    unstable on a quadratic with full batches at the rate of that step: 2 / lr for gradient descent, (2 + 2 b) / lr with
    momentum b, of the preconditioned curvature 38 / lr for Adam. It stands beside the operator that it belongs to, over
    all parameters, where the steps logged before and after have the same or the step itself was logged.
    """

    operator: OperatorName = "hessian"
    parameters: ParametersGlob = WHOLE
    probe: ProbeKey = None
    color: str | None = Field(
        default=None, description="swept setting that colors the lines; else the first but the seed"
    )

    def render(self, study: Study) -> Summary:
        """Long rows; a run without any measurement keeps one row, with no step.

        Raises:
            UsageError: `color` names a setting that the runs share.
        """
        color = self._color(study)
        curves = self._curves(study)
        runs = pd.DataFrame({"run": [run.id for run in study.runs], "place": range(len(study.runs))})
        long = runs.merge(curves, how="left", on="run").sort_values(["place", "step"], kind="stable")
        settings = {run.id: study.settings.loc[run.id].to_dict() for run in study.runs}
        rows = tuple(
            {
                "run": row["run"],
                **settings[row["run"]],
                "step": None if pd.isna(row["step"]) else int(row["step"]),
                **shown(row, MEASURED),
            }
            for row in long.to_dict("records")
        )

        def draw() -> Figure:
            from lossgeo.reports.figures import curves as figure

            of_run = {run.id: None if color is None else run.flat.get(color) for run in study.runs}
            return figure.draw(curves, of_run, color, self.operator)

        drawable = curves[MEASURED].notna().any(axis=None)
        notes, nothing = self._notes(study, curves), not len(curves)
        return Summary("Training curves", rows, notes, draw if drawable else None, empty=nothing)

    def _color(self, study: Study) -> str | None:
        if self.color is not None and self.color not in study.swept:
            raise UsageError(f"curves: color: {self.color!r} does not differ between the runs; {list(study.swept)} do")
        return self.color or next((key for key in study.swept if key != "seed"), None)

    def _curves(self, study: Study) -> pd.DataFrame:
        curves = study.curves(self.operator, self.parameters, self.probe).sort_values("step", kind="stable")
        return curves.assign(threshold=self._thresholds(study, curves))

    def _thresholds(self, study: Study, curves: pd.DataFrame) -> np.ndarray:
        """That of the operator shown, for every row of `curves`, which go by step; NaN where it is not known."""
        logged = _limits(study)
        fits = logged["threshold_of"].isin(MATCHING.get(self.operator, ())) & (self.parameters == WHOLE)
        fits &= ~logged["run"].isin(_of_other_maps(study, self.operator))
        logged = logged.assign(threshold=logged["threshold"].where(fits)).drop(columns="threshold_of")
        if not len(logged) or not len(curves):
            return np.full(len(curves), np.nan)
        before, after = (
            pd.merge_asof(curves[["run", "step"]], logged, on="step", by="run", direction=way)["threshold"].to_numpy()
            for way in ("backward", "forward")
        )
        ends = logged.groupby("run")["step"].transform("max")
        settled = logged.groupby("run")["threshold"].shift().eq(logged["threshold"]) & logged["step"].eq(ends)
        beyond = logged.loc[settled].set_index("run")
        past = (curves["step"] > curves["run"].map(beyond["step"])).to_numpy()  # of steps there is none after the last
        return np.where((before == after) | past, before, np.nan)

    def _notes(self, study: Study, curves: pd.DataFrame) -> tuple[str, ...]:
        notes = []
        without = len(study.runs) - curves["run"].nunique()
        if without:
            notes.append(
                f"{without} of {len(study.runs)} runs have neither an evaluation nor an eigenvalue nor a trace."
            )
        for table in ("eigenvalues", "trace"):
            notes += choice_note(study, self.operator, self.parameters, self.probe, table)
        for count, of_them in (("diverged", "diverged"), ("failed", "lack a number that others have")):
            if (curves[count] > 0).any():
                notes.append(
                    f"In {(curves[count] > 0).sum()} rows there are trials that {of_them}; no number is over them."
                )
        return (*notes, *self._on_thresholds(study))

    def _on_thresholds(self, study: Study) -> Iterator[str]:
        """Where there is none, and what it does not cover."""
        logged = _limits(study)
        of_run = logged.dropna(subset="threshold").groupby("run")["threshold_of"].first()
        without = sum(run.id not in of_run.index for run in study.runs)
        if without:
            yield (
                f"{without} of {len(study.runs)} runs have no threshold: theory gives none for their optimizer as it "
                "is set, such as Adam with weight decay that the curvature lacks, or they were made before it was kept."
            )
        for operator in sorted(set(of_run) - set(MATCHING.get(self.operator, ()))):
            count = int((of_run == operator).sum())
            yield f"The threshold of {count} runs is one of operator {operator}: see it with operator={operator}."
        others = len(_of_other_maps(study, self.operator) & set(of_run.index))
        if others:
            yield f"{others} runs measured {self.operator} of another map than the Hessian, which no threshold is for."
        if self.parameters != WHOLE and len(of_run):
            yield "The thresholds are those of all the parameters, not of a group."
        if any(run.flat.get("batch_size", "full") != "full" for run in study.runs) and len(of_run):
            yield "Some of these runs step on batches, whose noise makes steps unstable below the threshold already."


def _of_other_maps(study: Study, operator: str) -> set[str]:
    """The runs that measured an operator made of another one than the Hessian."""
    rows = study.table("eigenvalues").reindex(columns=["run", "operator", "settings"])
    rows = rows[(rows["operator"] == operator) & rows["settings"].notna()]
    of = [json.loads(settings).get("of", {"name": "hessian"})["name"] for settings in rows["settings"]]
    return set(rows["run"][[name not in ("hessian", "finite_difference") for name in of]])


def _limits(study: Study) -> pd.DataFrame:
    """run, step, threshold, threshold_of of every logged step, in the order of steps; all trials have the same."""
    rows = study.table("steps").reindex(columns=["run", "step", "threshold", "threshold_of"])
    rows = rows.drop_duplicates(["run", "step"]).sort_values("step", kind="stable")
    return rows.astype({"threshold": float})
