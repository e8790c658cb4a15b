"""The picture of sharpness: every run a dot, every batch size its mean and interval, train loss always beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossgeo.reports.analysis.batch_sizes import SizeSweep
from lossgeo.reports.analysis.study import natural
from lossgeo.reports.figures import style as _figure


def draw(operator: str, sweeps: Sequence[SizeSweep], words: str) -> Figure:
    """A series for each sweep, its fitted power law dashed. `words`: on the intervals."""
    drawn = [sweep for sweep in sweeps if len(sweep.used)]
    used = pd.concat([sweep.used for sweep in drawn])
    law = drawn[0].slope.exponent if len(drawn) == 1 and drawn[0].slope else None
    exponent = f" $\\propto$ batch size$^{{\\,{law.value:.2f}}}$" if law else f" of the {operator}"
    interval = f"  [{law.low:.2f}, {law.high:.2f}]" if law and law.low is not None else ""
    titles = {"lambda_max": f"$\\lambda_{{\\max}}${exponent}{interval}", "train_loss": "train loss"}
    if used["test_accuracy"].notna().any():
        titles["test_accuracy"] = "test accuracy"
    figure, axes = _figure.panels(list(titles.values()), _small_print(operator, used, words))

    full = set(used.loc[used["batch_size"] == "full", "size"])
    sizes = sorted(set(used["size"].dropna()))
    # sweeps stand side by side, runs beside their mean: shifts in units of the distance of the closest batch sizes
    gap = min((b / a for a, b in pairwise(sizes)), default=2.0)
    width = 0.6 / len(drawn)
    paints = _figure.colors([sweep.name for sweep in drawn])
    markers = [_figure.MARKERS[i % len(_figure.MARKERS)] for i in range(len(drawn))]
    for axis, column in zip(axes, titles, strict=True):
        for i, (sweep, paint, marker) in enumerate(zip(drawn, paints, markers, strict=True)):
            center = (i - (len(drawn) - 1) / 2) * width
            _draw_sweep(axis, column, sweep, (paint, marker), (gap**center, gap ** (center - 0.4 * width)))
        _figure.marked_log_x(axis, sizes, gap, [f"{size:g}" + ("\n(full)" if size in full else "") for size in sizes])
        axis.set_xlabel("batch size", fontsize=9, color=_figure.INK)
        if column != "test_accuracy" and not (used[column] <= 0).any():
            _figure.log_ticks(axis)
    if 1 < len(drawn) <= _figure.READABLE:
        handles = [Line2D([], [], color=p, marker=m, linestyle="") for p, m in zip(paints, markers, strict=True)]
        labels = [f.name + (f"\nslope {f.exponent}" if f.exponent else "") for f in drawn]
        _figure.legend(figure, handles, labels)
    return figure


def _draw_sweep(axis: Axes, column: str, sweep: SizeSweep, look: tuple[Any, str], shifts: tuple[float, float]) -> None:
    (color, marker), (mean_shift, run_shift) = look, shifts
    used = sweep.used.dropna(subset="size")
    size, value = used["size"].to_numpy(float), used[column].to_numpy(float)
    axis.plot(size * run_shift, value, marker, color=color, markersize=4.5, alpha=0.45, markeredgewidth=0)

    means = [row for row in sweep.rows if row[column] is not None and not isinstance(row["batch_size"], str | None)]
    x, y = (np.array([row[key] for row in means], dtype=float) for key in ("batch_size", column))
    low, high = (np.array([row[f"{column}_{end}"] for row in means], dtype=float) for end in ("low", "high"))
    bars = [y - low, high - y]  # NaN where there is no interval: the mean stands alone
    axis.errorbar(
        x * mean_shift, y, bars, fmt=marker, color=color, markersize=7, mec="white", elinewidth=1.5, capsize=3, zorder=3
    )

    if column == "lambda_max" and sweep.slope is not None:
        u, v = np.log(size[value > 0]), np.log(value[value > 0])
        ends = np.array([u.min(), u.max()])
        line = np.exp(v.mean() + sweep.slope.exponent.value * (ends - u.mean()))
        axis.plot(np.exp(ends), line, "--", color=color, linewidth=1, alpha=0.8)


def _small_print(operator: str, used: pd.DataFrame, words: str) -> str:
    seeds = sorted(set(used["seed"]), key=natural)
    which = f"seeds: {', '.join(map(str, seeds))}" if len(seeds) <= 10 else f"{len(seeds)} seeds"
    return f"{operator}; small dots: runs ({which}); large: means, {words}"
