"""Does sharpness grow with the batch size? One row per batch size, an exponent, and what speaks against reading it.

Two decisions a reader would question. A setting that changes together with the batch size (a learning rate scaled with
it, a budget of steps) does not split the slope: each batch size has one value of it, and a note says so. And a run
counts only if it is done: a run under way shows the sharpness of another moment of training, so it counts as missing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.reports import OperatorName, ParametersGlob, ProbeKey, Report, Summary, choice_note, label, plain
from lossgeo.reports.analysis.intervals import FEWEST, Estimate, Slope, loglog_slope, mean
from lossgeo.reports.analysis.study import WHOLE, RunData, Study, last, natural
from lossgeo.tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# |ln(loss ratio)|: near interpolation the curvature of cross-entropy is about proportional to the loss, so losses 10%
# apart move lambda_max by about as much as seeds do
UNEQUAL_LOSS = 0.1


@dataclass(frozen=True)
class Family:
    """Runs that differ in batch size and seed alone: one slope, one series of the figure."""

    name: str  # what sets it apart from the other families; "" for the only one
    runs: pd.DataFrame
    rows: list[Row]
    slope: Slope | None

    @property
    def used(self) -> pd.DataFrame:
        return self.runs[self.runs["outcome"] == "used"]

    @property
    def exponent(self) -> str:
        """The slope with its interval, "" without one."""
        if self.slope is None:
            return ""
        found = self.slope.exponent
        interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
        return f"{found.value:.2f}{interval}"


@final
class Sharpness(Report):
    """lambda_max by batch size, with the exponent of lambda_max ~ batch_size^slope.

    Per group: mean over runs and its 95% bootstrap interval. Slope: least squares of log lambda_max on log batch size
    within each seed, mean over seeds. train_loss_ratio: largest over smallest mean train loss of the batch sizes.
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
        tied = _tied(runs, settings)
        free = [key for key in settings if key not in tied]
        families = [
            _family(
                ", ".join(f"{key} {label(value)}" for key, value in zip(free, values, strict=True)),
                members,
                settings,
                tied,
            )
            for values, members in _groups(runs, free)
        ]
        notes = [
            *_comparison_notes(families, tied),
            *_missing_notes(runs),
            *_measurement_notes(runs[runs["outcome"] == "used"], families),
        ]
        notes += choice_note(study, self.operator, self.probe)
        drawable = runs.loc[runs["outcome"] == "used", "size"].notna().any()
        return Summary(
            f"Sharpness ({self.operator}) by batch size",
            tuple(row for family in families for row in family.rows),
            tuple(notes),
            (lambda: _draw(self.operator, families)) if drawable else None,
        )

    def _runs(self, study: Study) -> pd.DataFrame:
        """One row a run: settings, size (batch size as a number), numbers, and outcome: used, diverged, or why not."""
        top = last(study.top_eigenvalues(self.operator, self.probe, self.parameters), self.step)
        evaluations = last(study.evaluations(), self.step).rename(columns={"step": "evaluated"})
        traces = last(study.traces(self.operator, self.parameters), self.step)["trace"]
        runs = pd.concat([top, evaluations, traces], axis=1).reindex([run.id for run in study.runs])
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
        if isinstance(numbers["failure"], str):
            return f"the probe failed: {numbers['failure']}"
        return (
            "used" if np.isfinite(numbers["lambda_max"]) else f"no top eigenvalue of the {self.operator} was measured"
        )


def _size(run: RunData) -> float | None:
    size: Any = run.flat.get("batch_size")
    return (run.manifest.get("data") or {}).get("train") if size == "full" else size


def _groups(runs: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The runs by equal settings, in the settings' natural order; one group if there are no keys."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for run, values in zip(
        runs.index, zip(*(runs[key] for key in keys), strict=True) if keys else [()] * len(runs), strict=True
    ):
        groups.setdefault(values, []).append(run)
    ordered = sorted(groups, key=lambda values: [natural(value) for value in values])
    return [(values, runs.loc[groups[values]]) for values in ordered]


def _tied(runs: pd.DataFrame, settings: list[str]) -> list[str]:
    """The settings with one value per batch size: they change with it and with nothing else."""
    sizes = len(_groups(runs, ["batch_size"]))
    return [key for key in settings if sizes > 1 and len(_groups(runs, ["batch_size", key])) == sizes]


def _family(name: str, runs: pd.DataFrame, settings: list[str], tied: list[str]) -> Family:
    rows = [_row(group, settings) for _, group in _groups(runs, ["batch_size", *tied])]
    losses = [row["train_loss"] for row in rows if row["train_loss"] is not None and row["train_loss"] > 0]
    used = runs[runs["outcome"] == "used"].dropna(subset="size")
    slope = loglog_slope(used["size"], used["lambda_max"], list(used["seed"]))
    shared = {
        "train_loss_ratio": max(losses) / min(losses) if len(losses) > 1 else None,
        **(slope.exponent if slope else Estimate()).columns("slope"),
    }
    return Family(name, runs, [row | shared for row in rows], slope)


def _row(group: pd.DataFrame, settings: list[str]) -> Row:
    first, used = group.iloc[0], group[group["outcome"] == "used"]
    size = plain(first["size"])
    diverged = int((group["outcome"] == "diverged").sum())
    means: Row = {}
    for column in ("lambda_max", "trace", "train_loss", "test_accuracy"):
        means |= mean(used[column]).columns(column)
    return {
        "batch_size": first["batch_size"] if size is None else int(size),
        **{key: first[key] for key in settings},
        "runs": len(group),
        "used": len(used),
        "diverged": diverged,
        "missing": len(group) - len(used) - diverged,
        "unconverged": _unconverged(used),
        **means,
        "step": plain(used["step"].mean()),
    }


def _unconverged(used: pd.DataFrame) -> int:
    return len(used) - int(used["converged"].eq(True).sum())


def _comparison_notes(families: list[Family], tied: list[str]) -> list[str]:
    notes = []
    for family in families:
        if family.slope is not None:
            where = f" at {family.name}" if family.name else ""
            left_out = (
                f"; {family.slope.left_out} seeds have fewer than two batch sizes" if family.slope.left_out else ""
            )
            notes.append(
                f"lambda_max ~ batch_size^{family.exponent}{where}: mean over {family.slope.groups} seeds{left_out}."
            )
    if tied:
        notes.append(f"{', '.join(tied)} tied to batch_size: the slope is the effect of both together.")
    ratio = max((row["train_loss_ratio"] or 1.0 for family in families for row in family.rows), default=1.0)
    if np.log(ratio) > UNEQUAL_LOSS:
        notes.append(
            f"Train losses of the batch sizes differ by up to a factor {ratio:.3g}: sharpness at unequal loss means"
            " little; train to a matched loss (`stop: {train_loss_below: ...}`)."
        )
    if any((family.runs["batch_size"] == "full").any() for family in families):
        notes.append("For batch_size `full` the number of training examples is shown.")
    return notes


def _missing_notes(runs: pd.DataFrame) -> list[str]:
    notes = []
    diverged = int((runs["outcome"] == "diverged").sum())
    if diverged:
        notes.append(f"{diverged} of {len(runs)} runs diverged and are left out of the means.")
    reasons = Counter(runs.loc[~runs["outcome"].isin(["used", "diverged"]), "outcome"])
    if reasons:
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        notes.append(f"{reasons.total()} of {len(runs)} runs are missing: {listed}.")
    return notes


def _measurement_notes(used: pd.DataFrame, families: list[Family]) -> list[str]:
    notes = []
    if _unconverged(used):
        notes.append(f"{_unconverged(used)} of {len(used)} eigenvalues had not converged.")
    apart = int((used["evaluated"].notna() & (used["evaluated"] != used["step"])).sum())
    if apart:
        notes.append(f"In {apart} of {len(used)} runs the evaluation and the eigenvalue shown are of different steps.")
    for column in ("trace", "train_loss", "test_accuracy"):
        without = int(used[column].isna().sum())
        if 0 < without < len(used):
            notes.append(f"{without} of {len(used)} runs have no {column}; its mean is over the others.")
    if any(0 < row["used"] < FEWEST for family in families for row in family.rows):
        notes.append(
            f"An interval from fewer than {FEWEST} runs is too short: from 2, 3, 4 it holds the mean in about 50, 75,"
            " 88% of cases instead of 95%, and from 1 there is none."
        )
    return notes


def _draw(operator: str, families: list[Family]) -> Figure:
    """Every run a dot, every group its mean and interval, the fitted power law dashed; train loss always beside it."""
    from matplotlib.lines import Line2D

    from lossgeo.reports.figures import style as _figure

    drawn = [family for family in families if len(family.used)]
    used = pd.concat([family.used for family in drawn])
    law = drawn[0].slope.exponent if len(drawn) == 1 and drawn[0].slope else None
    exponent = f" $\\propto$ batch size$^{{\\,{law.value:.2f}}}$" if law else f" of the {operator}"
    interval = f"  [{law.low:.2f}, {law.high:.2f}]" if law and law.low is not None else ""
    titles = {"lambda_max": f"$\\lambda_{{\\max}}${exponent}{interval}", "train_loss": "train loss"}
    if used["test_accuracy"].notna().any():
        titles["test_accuracy"] = "test accuracy"
    figure, axes = _figure.panels(list(titles.values()), _small_print(operator, used, drawn))

    full = set(used.loc[used["batch_size"] == "full", "size"])
    sizes = sorted(set(used["size"].dropna()))
    # families stand side by side, runs beside their mean: shifts in units of the distance of the closest batch sizes
    gap = min((b / a for a, b in pairwise(sizes)), default=2.0)
    width = 0.6 / len(drawn)
    paints = _figure.colors([family.name for family in drawn])
    markers = [_figure.MARKERS[i % len(_figure.MARKERS)] for i in range(len(drawn))]
    for axis, column in zip(axes, titles, strict=True):
        for i, (family, paint, marker) in enumerate(zip(drawn, paints, markers, strict=True)):
            center = (i - (len(drawn) - 1) / 2) * width
            _draw_family(axis, column, family, (paint, marker), (gap**center, gap ** (center - 0.4 * width)))
        _figure.marked_log_x(axis, sizes, gap, [f"{size:g}" + ("\n(full)" if size in full else "") for size in sizes])
        axis.set_xlabel("batch size", fontsize=9, color=_figure.INK)
        if column != "test_accuracy" and not (used[column] <= 0).any():
            _figure.log_ticks(axis)
    if 1 < len(drawn) <= _figure.READABLE:
        handles = [Line2D([], [], color=p, marker=m, linestyle="") for p, m in zip(paints, markers, strict=True)]
        labels = [f.name + (f"\nslope {f.exponent}" if f.exponent else "") for f in drawn]
        _figure.legend(figure, handles, labels)
    return figure


def _draw_family(axis: Axes, column: str, family: Family, look: tuple[Any, str], shifts: tuple[float, float]) -> None:
    (color, marker), (mean_shift, run_shift) = look, shifts
    used = family.used.dropna(subset="size")
    size, value = used["size"].to_numpy(float), used[column].to_numpy(float)
    axis.plot(size * run_shift, value, marker, color=color, markersize=4.5, alpha=0.45, markeredgewidth=0)

    means = [row for row in family.rows if row[column] is not None and not isinstance(row["batch_size"], str | None)]
    x, y = (np.array([row[key] for row in means], dtype=float) for key in ("batch_size", column))
    low, high = (np.array([row[f"{column}_{end}"] for row in means], dtype=float) for end in ("low", "high"))
    bars = [np.nan_to_num(y - low), np.nan_to_num(high - y)]
    axis.errorbar(
        x * mean_shift, y, bars, fmt=marker, color=color, markersize=7, mec="white", elinewidth=1.5, capsize=3, zorder=3
    )

    if column == "lambda_max" and family.slope is not None:
        u, v = np.log(size[value > 0]), np.log(value[value > 0])
        ends = np.array([u.min(), u.max()])
        line = np.exp(v.mean() + family.slope.exponent.value * (ends - u.mean()))
        axis.plot(np.exp(ends), line, "--", color=color, linewidth=1, alpha=0.8)


def _small_print(operator: str, used: pd.DataFrame, families: list[Family]) -> str:
    counts = sorted({row["used"] for family in families for row in family.rows if row["used"]})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds = sorted(set(used["seed"]), key=natural)
    which = f"seeds: {', '.join(map(str, seeds))}" if len(seeds) <= 10 else f"{len(seeds)} seeds"
    dots = f"{operator}; small dots: runs, n = {n} per batch size ({which})"
    return f"{dots}; large: mean and its 95% bootstrap interval" if counts[-1] > 1 else dots
