"""Does sharpness grow with the batch size? One row per batch size, an exponent, and what speaks against reading it.

A run counts only if it is done: a run under way shows the sharpness of another moment of training, so it counts as
missing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.reports import OperatorName, ParametersGlob, ProbeKey, Report, Summary, choice_note
from lossgeo.reports.analysis.batch_sizes import SizeSweep, size_sweeps, tied_to_size, unconverged
from lossgeo.reports.analysis.intervals import in_words
from lossgeo.reports.analysis.study import WHOLE, RunData, Study

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

# |ln(loss ratio)|: near interpolation the curvature of cross-entropy is about proportional to the loss, so losses 10%
# apart move lambda_max by about as much as seeds do
UNEQUAL_LOSS = 0.1


@final
class Sharpness(Report):
    """lambda_max by batch size, with the exponent of lambda_max ~ batch_size^slope.

    Per group: mean over the runs used and its 95% t interval, each run with the mean of its trials_used. diverged
    counts trials, a run alone as one. What one of these runs lacks has no mean. Slope: least squares of log lambda_max
    on log batch size within each seed, mean over seeds. train_loss_ratio: largest over smallest mean train loss of the
    batch sizes.
    Source: Keskar et al. 2017 (the claim); Jastrzebski et al. 2018 (lambda_max and lr / batch size).
    """

    operator: OperatorName = "hessian"
    parameters: ParametersGlob = WHOLE
    probe: ProbeKey = None
    step: Literal["last"] | int = Field(
        default="last", description="last, or a step: the last measurement at or before it"
    )

    def render(self, study: Study) -> Summary:
        """A row per batch size and other swept setting but the seed; a group without a usable run has counts only."""
        runs = self._runs(study)
        settings = [key for key in study.swept if key not in ("batch_size", "seed")]
        tied = tied_to_size(runs, settings)
        sweeps = size_sweeps(runs, settings, tied)
        notes = [
            *_comparison_notes(sweeps, tied),
            *_missing_notes(runs),
            *_measurement_notes(runs[runs["outcome"] == "used"]),
        ]
        for table in ("eigenvalues", "trace"):
            notes += choice_note(study, self.operator, self.parameters, self.probe, table)
        counts = [row["used"] for sweep in sweeps for row in sweep.rows if row["used"]]
        words = in_words("t", "mean", counts)
        notes += [f"Means over runs: {words}."] if counts else []

        def draw() -> Figure:
            from lossgeo.reports.figures import sharpness

            return sharpness.draw(self.operator, sweeps, words)

        rows = tuple(row for sweep in sweeps for row in sweep.rows)
        of_sweep = [number for number, sweep in enumerate(sweeps) for _ in sweep.rows]
        shared = dict.fromkeys(("slope", "train_loss_ratio"), of_sweep)
        drawable = runs.loc[runs["outcome"] == "used", "size"].notna().any()
        title = f"Sharpness ({self.operator}) by batch size"
        nothing = not runs["outcome"].isin(["used", "diverged"]).any()
        return Summary(title, rows, tuple(notes), draw if drawable else None, shared, nothing)

    def _runs(self, study: Study) -> pd.DataFrame:
        """One row a run: settings, size (batch size as a number), numbers, and outcome: used, diverged, or why not."""
        step = None if self.step == "last" else self.step
        runs = study.final(self.operator, self.parameters, self.probe, step).loc[[run.id for run in study.runs]]
        runs = runs.rename(columns={"lambda_max_step": "step", "train_loss_step": "evaluated"})
        for key in dict.fromkeys(["batch_size", "seed", *study.swept]):
            runs[key] = pd.Series([run.flat.get(key) for run in study.runs], runs.index, dtype=object)
        runs["size"] = pd.Series([_size(run) for run in study.runs], runs.index, dtype=float)
        runs["outcome"] = [
            self._outcome(run, numbers) for run, (_, numbers) in zip(study.runs, runs.iterrows(), strict=True)
        ]
        return runs

    def _outcome(self, run: RunData, numbers: pd.Series[Any]) -> str:
        if run.status == "diverged":
            return "diverged"
        reached = self.step != "last" and run.manifest.get("step", 0) >= self.step
        if run.status != "done" and not reached:
            return f"{run.status} at step {run.manifest.get('step')} of {run.manifest.get('steps')}"
        if np.isfinite(numbers["lambda_max"]):
            return "used"
        if isinstance(numbers["failure"], str):
            return f"the probe failed: {numbers['failure']}"
        return f"no top eigenvalue of the {self.operator} was measured"


def _size(run: RunData) -> float | None:
    size: Any = run.flat.get("batch_size")
    return (run.manifest.get("data") or {}).get("train") if size == "full" else size


def _comparison_notes(sweeps: list[SizeSweep], tied: list[str]) -> list[str]:
    notes = []
    for sweep in sweeps:
        if sweep.slope is not None:
            where = f" at {sweep.name}" if sweep.name else ""
            left_out = f"; {sweep.slope.left_out} seeds have fewer than two batch sizes" if sweep.slope.left_out else ""
            notes.append(
                f"lambda_max ~ batch_size^{sweep.exponent}{where}: mean over {sweep.slope.groups} seeds{left_out}."
            )
    if tied:
        notes.append(f"{', '.join(tied)} tied to batch_size: the slope is the effect of both together.")
    ratio = max((row["train_loss_ratio"] or 1.0 for sweep in sweeps for row in sweep.rows), default=1.0)
    if np.log(ratio) > UNEQUAL_LOSS:
        notes.append(
            f"Train losses of the batch sizes differ by up to a factor {ratio:.3g}: sharpness at unequal loss means"
            " little; train to a matched loss (`stop: {train_loss_below: ...}`)."
        )
    if any((sweep.runs["batch_size"] == "full").any() for sweep in sweeps):
        notes.append("For batch_size `full` the number of training examples is shown.")
    return notes


def _missing_notes(runs: pd.DataFrame) -> list[str]:
    notes = []
    diverged = int((runs["outcome"] == "diverged").sum())
    if diverged:
        notes.append(f"{diverged} of {len(runs)} runs diverged and are left out of the means.")
    used = runs[runs["outcome"] == "used"]
    for count, of_them in (("diverged", "diverged"), ("failed", "lack a number that others have")):
        if used[count].sum():
            notes.append(f"Of the trials of these runs {used[count].sum()} {of_them}; no number is over them.")
    reasons = Counter(runs.loc[~runs["outcome"].isin(["used", "diverged"]), "outcome"])
    if reasons:
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        notes.append(f"{reasons.total()} of {len(runs)} runs are missing: {listed}.")
    return notes


def _measurement_notes(used: pd.DataFrame) -> list[str]:
    notes = []
    if unconverged(used):
        notes.append(f"{unconverged(used)} of {len(used)} eigenvalues had not converged.")
    apart = int((used["evaluated"].notna() & (used["evaluated"] != used["step"])).sum())
    if apart:
        notes.append(f"In {apart} of {len(used)} runs the evaluation and the eigenvalue shown are of different steps.")
    for column in ("trace", "train_loss", "test_accuracy"):
        without = int(used[column].isna().sum())
        if 0 < without < len(used):
            notes.append(f"{without} of {len(used)} runs have no {column}; beside them there is no mean of it.")
    return notes
