"""The picture of training curves: loss, accuracy, the largest eigenvalue and the trace over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossgeo.reports import label
from lossgeo.reports.analysis.study import natural
from lossgeo.reports.figures import style as _figure

BANDED = ("lambda_max", "trace")  # columns with intervals
FEW = 25  # points of a line, up to which each is marked: a single one would not be seen otherwise


def draw(curves: pd.DataFrame, settings: Mapping[str, Any], color: str | None, operator: str) -> Figure:
    """One line a run of `curves`, in the color of its setting; `settings`: that of every run, `color`: its name."""
    wanted = {
        "loss": ["train_loss", "test_loss"],
        "accuracy": ["train_accuracy", "test_accuracy"],
        f"largest eigenvalue, {operator}": ["lambda_max"],
        f"trace, {operator}": ["trace"],
    }
    shown = {title: columns for title, columns in wanted.items() if curves[columns].notna().any(axis=None)}
    footer = f"{len(settings)} runs, one line each" if len(settings) > 1 else f"run {next(iter(settings))}"
    if curves[["lambda_max_low", "trace_low"]].notna().any(axis=None):
        footer += "; bands: 95% intervals"
    figure, axes = _figure.panels(list(shown), footer)
    values = sorted({natural(value): value for value in settings.values()}.values(), key=natural)
    paints = dict(zip(map(natural, values), _figure.colors(values), strict=True))
    look: dict[str, Any] = {"linewidth": 1.6, "alpha": 0.9} if len(settings) <= 5 else {"linewidth": 1.0, "alpha": 0.7}
    of_run = dict(list(curves.groupby("run")))
    of_value = {
        natural(value): [of_run[run] for run, setting in settings.items() if setting == value and run in of_run]
        for value in values
    }
    shared = curves["threshold"].nunique() == 1
    for axis, columns in zip(axes, shown.values(), strict=True):
        for value, parts in of_value.items():
            for column in columns:
                style = "--" if column.startswith("test") else "-"
                few = max((int(part[column].count()) for part in parts), default=0) <= FEW
                marker = "o" if few and column in BANDED else ""
                axis.plot(*_broken(parts, column), style, color=paints[value], marker=marker, ms=2.5, **look)
                if column in BANDED:
                    step, low, high = _broken(parts, f"{column}_low", f"{column}_high")
                    axis.fill_between(step, low, high, color=paints[value], alpha=0.15, linewidth=0)
            if columns == ["lambda_max"]:
                axis.plot(*_broken(parts, "threshold"), ":", color=_figure.INK if shared else paints[value])
        if columns != wanted["accuracy"] and not (curves[columns] <= 0).any(axis=None):
            _figure.log_ticks(axis)
        if columns == ["lambda_max"] and curves["threshold"].notna().any():
            # a decaying lr takes the threshold to infinity: it may leave the panel, which belongs to the eigenvalues
            axis.set_ylim(top=min(axis.get_ylim()[1], 10 * curves["lambda_max"].max()))
        axis.set_xlabel("step", fontsize=9, color=_figure.INK)
        if columns != wanted[f"trace, {operator}"]:
            two, limited = len(columns) == 2, curves["threshold"].notna().any()
            names = ["train", "test"] if two else ["$\\lambda_{\\max}$", *(["threshold"] if limited else [])]
            samples = [Line2D([], [], color=_figure.INK, linewidth=1.2) for _ in names]
            samples[-1].set_linestyle("--" if two else ":" if limited else "-")
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
