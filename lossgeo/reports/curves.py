"""Training curves: loss, accuracy, the largest eigenvalue with the threshold 2 / lr beside it, and the trace."""

from __future__ import annotations

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
MEASURED = ["train_loss", "test_loss", "train_accuracy", "test_accuracy", *CURVATURE, "threshold"]


@final
class Curves(Report):
    """Loss, accuracy, lambda_max, 2 / lr and the trace over steps, one line a run, with bands of 95% intervals.

    A row stands wherever a run was evaluated or probed, with means over the trials used: those on their way, of which
    all is known that is known of any. diverged, ended (otherwise) and failed are the others. The interval of lambda_max
    is its bracket over data, where it was measured on a sample, else the solver's error; that of the trace holds the
    error over random vectors too. threshold = 2 / lr, with the lr
    of the nearest logged step, is the curvature above which full-batch gradient descent is unstable on a quadratic.
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
        return Summary("Training curves", rows, self._notes(study, curves), draw if drawable else None)

    def _color(self, study: Study) -> str | None:
        if self.color is not None and self.color not in study.swept:
            raise UsageError(f"curves: color: {self.color!r} does not differ between the runs; {list(study.swept)} do")
        return self.color or next((key for key in study.swept if key != "seed"), None)

    def _curves(self, study: Study) -> pd.DataFrame:
        curves = study.curves(self.operator, self.parameters, self.probe).sort_values("step", kind="stable")
        rates = study.table("steps").reindex(columns=["run", "step", "lr"]).dropna()
        if len(rates) == 0:
            return curves.assign(threshold=np.nan)
        rates = rates.drop_duplicates(["run", "step"]).sort_values("step", kind="stable")  # one lr for all replicas
        curves = pd.merge_asof(curves, rates, on="step", by="run", direction="nearest")
        return curves.assign(threshold=2 / curves["lr"].where(curves["lr"] > 0))

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
        plain_descent = {("sgd", 0), (None, 0)}
        used = {(run.flat.get("optimizer.name"), run.flat.get("optimizer.momentum") or 0) for run in study.runs}
        if not used <= plain_descent:
            notes.append(
                "2 / lr is the threshold of gradient descent without momentum; some of these optimizers have another."
            )
        return tuple(notes)
