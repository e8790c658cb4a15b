"""Runs as sweeps over the batch size at equal other settings: a row a batch size, and the power law through the rows.

A setting that changes together with the batch size (a learning rate, a budget of steps) does not split a sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossgeo.reports import error_of, label, plain
from lossgeo.reports.analysis.intervals import Estimate, Slope, loglog_slope, mean
from lossgeo.reports.analysis.study import natural
from lossgeo.reports.analysis.trials import listed
from lossgeo.tables import Row


@dataclass(frozen=True)
class SizeSweep:
    """Runs that differ in batch size and seed alone: one slope, one series of the figure."""

    name: str  # what sets it apart from the other sweeps; "" for the only one
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


def tied_to_size(runs: pd.DataFrame, settings: list[str]) -> list[str]:
    """The settings with one value per batch size."""
    sizes = len(_grouped(runs, ["batch_size"]))
    return [key for key in settings if sizes > 1 and len(_grouped(runs, ["batch_size", key])) == sizes]


def size_sweeps(runs: pd.DataFrame, settings: list[str], tied: list[str]) -> list[SizeSweep]:
    """One sweep for each combination of the settings that are not tied to the batch size."""
    free = [key for key in settings if key not in tied]
    sweeps = []
    for values, members in _grouped(runs, free):
        name = ", ".join(f"{key} {label(value)}" for key, value in zip(free, values, strict=True))
        sweeps.append(_sweep(name, members, settings, tied))
    return sweeps


def unconverged(used: pd.DataFrame) -> int:
    """How many of the eigenvalues had not converged."""
    return len(used) - int(used["converged"].eq(True).sum())


def _grouped(runs: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The runs by equal settings, in the settings' natural order; one group if there are no keys."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for run, values in zip(
        runs.index, zip(*(runs[key] for key in keys), strict=True) if keys else [()] * len(runs), strict=True
    ):
        groups.setdefault(values, []).append(run)
    ordered = sorted(groups, key=lambda values: [natural(value) for value in values])
    return [(values, runs.loc[groups[values]]) for values in ordered]


def _sweep(name: str, runs: pd.DataFrame, settings: list[str], tied: list[str]) -> SizeSweep:
    rows = [_row(group, settings) for _, group in _grouped(runs, ["batch_size", *tied])]
    losses = [row["train_loss"] for row in rows if row["train_loss"] is not None and row["train_loss"] > 0]
    used = runs[runs["outcome"] == "used"].dropna(subset="size")
    slope = loglog_slope(used["size"], used["lambda_max"], list(used["seed"]))
    shared = {
        "train_loss_ratio": max(losses) / min(losses) if len(losses) > 1 else None,
        **(slope.exponent if slope else Estimate()).columns("slope"),
    }
    return SizeSweep(name, runs, [row | shared for row in rows], slope)


def _row(group: pd.DataFrame, settings: list[str]) -> Row:
    first, used = group.iloc[0], group[group["outcome"] == "used"]
    size = plain(first["size"])
    means: Row = {}
    for column in ("lambda_max", "trace", "train_loss", "test_accuracy"):
        # over fewer runs it would be of others than the numbers beside it
        means |= (mean(used[column]) if used[column].notna().all() else Estimate()).columns(column)
        if f"{column}_low" in used:
            means[error_of(column)] = plain((used[f"{column}_high"] - used[f"{column}_low"]).mean(skipna=False) / 2)
    return {
        "batch_size": first["batch_size"] if size is None else int(size),
        **{key: first[key] for key in settings},
        "runs": len(group),
        "used": len(used),
        "trials": int(group["trials"].sum()),
        "trials_used": int(used["used"].sum()),
        "diverged": int(group["diverged"].sum()),
        "missing": int((~group["outcome"].isin(["used", "diverged"])).sum()),
        "unconverged": unconverged(used),
        **means,
        "step": plain(used["step"].mean()),
        "lambda_max_probe": listed(used["lambda_max_probe"]),
        "lambda_max_samples": None
        if used["lambda_max_samples"].isna().all()
        else int(used["lambda_max_samples"].min()),
    }
