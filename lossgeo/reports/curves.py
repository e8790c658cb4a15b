"""Training curves: loss, accuracy, the largest eigenvalue with the threshold 2 / lr beside it, and the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.errors import UsageError
from lossgeo.reports import OperatorName, ParametersGlob, ProbeKey, Report, Summary, choice_note, label, plain
from lossgeo.reports.analysis.study import WHOLE, RunData, Study, natural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVATURE = ["lambda_max", "lambda_max_low", "lambda_max_high", "trace", "trace_low", "trace_high"]
MEASURED = ["train_loss", "test_loss", "train_accuracy", "test_accuracy", *CURVATURE, "threshold"]
FEW = 25  # points of a line, up to which each is marked: a single one would not be seen otherwise


@final
class Curves(Report):
    """Loss, accuracy, lambda_max, 2 / lr and the trace over steps, one line a run, with bands of 95% intervals.

    A row stands wherever a run was evaluated or probed. The interval of lambda_max is its bracket over data, where it
    was measured on a sample; that of the trace holds the error over random vectors too. threshold = 2 / lr, with the lr
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
                **{column: plain(row[column]) for column in MEASURED},
            }
            for row in long.to_dict("records")
        )
        drawable = curves[MEASURED].notna().any(axis=None)
        title = "Training curves"
        return Summary(
            title, rows, self._notes(study, curves), (lambda: self._draw(study, curves, color)) if drawable else None
        )

    def _color(self, study: Study) -> str | None:
        if self.color is not None and self.color not in study.swept:
            raise UsageError(f"curves: color: {self.color!r} does not differ between the runs; {list(study.swept)} do")
        return self.color or next((key for key in study.swept if key != "seed"), None)

    def _curves(self, study: Study) -> pd.DataFrame:
        top = study.top_eigenvalues(self.operator, self.probe, self.parameters).drop(columns=["converged", "failure"])
        curves = study.evaluations().merge(top, how="outer", on=["run", "step"])
        curves = curves.merge(study.traces(self.operator, self.parameters), how="outer", on=["run", "step"])
        curves = curves.sort_values("step", kind="stable")
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
        notes += choice_note(study, self.operator, self.probe)
        plain_descent = {("sgd", 0), (None, 0)}
        used = {(run.flat.get("optimizer.name"), run.flat.get("optimizer.momentum") or 0) for run in study.runs}
        if not used <= plain_descent:
            notes.append(
                "2 / lr is the threshold of gradient descent without momentum; some of these optimizers have another."
            )
        return tuple(notes)

    def _draw(self, study: Study, curves: pd.DataFrame, color: str | None) -> Figure:
        from matplotlib.lines import Line2D

        from lossgeo.reports.figures import style as _figure

        wanted = {
            "loss": ["train_loss", "test_loss"],
            "accuracy": ["train_accuracy", "test_accuracy"],
            f"largest eigenvalue, {self.operator}": ["lambda_max"],
            f"trace, {self.operator}": ["trace"],
        }
        shown = {title: columns for title, columns in wanted.items() if curves[columns].notna().any(axis=None)}
        footer = f"{len(study.runs)} runs, one line each" if len(study.runs) > 1 else f"run {study.runs[0].id}"
        if curves[["lambda_max_low", "trace_low"]].notna().any(axis=None):
            footer += "; bands: 95% intervals"
        figure, axes = _figure.panels(list(shown), footer)

        def setting(run: RunData) -> Any:
            return None if color is None else run.flat.get(color)

        values = sorted({natural(setting(run)): setting(run) for run in study.runs}.values(), key=natural)
        paints = dict(zip(map(natural, values), _figure.colors(values), strict=True))
        look: dict[str, Any] = (
            {"linewidth": 1.6, "alpha": 0.9} if len(study.runs) <= 5 else {"linewidth": 1.0, "alpha": 0.7}
        )
        of_run = dict(list(curves.groupby("run")))
        of_value = {
            natural(value): [of_run[run.id] for run in study.runs if setting(run) == value and run.id in of_run]
            for value in values
        }
        shared = curves["threshold"].nunique() == 1
        for axis, columns in zip(axes, shown.values(), strict=True):
            for value, parts in of_value.items():
                for column in columns:
                    style = "--" if column.startswith("test") else "-"
                    few = max((int(part[column].count()) for part in parts), default=0) <= FEW
                    marker = "o" if few and column in CURVATURE else ""
                    axis.plot(*_broken(parts, column), style, color=paints[value], marker=marker, ms=2.5, **look)
                    if column in CURVATURE:
                        step, low, high = _broken(parts, f"{column}_low", f"{column}_high")
                        axis.fill_between(step, low, high, color=paints[value], alpha=0.15, linewidth=0)
                if columns == ["lambda_max"]:
                    axis.plot(*_broken(parts, "threshold"), ":", color=_figure.INK if shared else paints[value])
            if columns != wanted["accuracy"] and not (curves[columns] <= 0).any(axis=None):
                _figure.log_ticks(axis)
            if columns == ["lambda_max"] and curves["threshold"].notna().any():
                # a decaying lr takes 2 / lr to infinity: it may leave the panel, which belongs to the eigenvalues
                axis.set_ylim(top=min(axis.get_ylim()[1], 10 * curves["lambda_max"].max()))
            axis.set_xlabel("step", fontsize=9, color=_figure.INK)
            if columns != wanted[f"trace, {self.operator}"]:
                names = ["train", "test"] if len(columns) == 2 else ["$\\lambda_{\\max}$", "2 / lr"]
                samples = [Line2D([], [], color=_figure.INK, linewidth=1.2) for _ in names]
                samples[1].set_linestyle("--" if len(columns) == 2 else ":")
                _figure.legend(axis, samples, names)
        if color is not None and len(values) <= _figure.READABLE:
            samples = [Line2D([], [], color=paint, linewidth=2) for paint in paints.values()]
            _figure.legend(figure, samples, [label(value) for value in values], color)
        return figure


def _broken(parts: list[pd.DataFrame], *columns: str) -> tuple[np.ndarray, ...]:
    """Steps and values of many lines as one line broken by NaN: 1,000 runs are then drawn in a second."""
    gap = np.full((1, 1 + len(columns)), np.nan)
    lines = [part[["step", *columns]].dropna().to_numpy(dtype=float) for part in parts]
    return tuple(np.concatenate([gap, *(piece for line in lines for piece in (line, gap))]).T)
