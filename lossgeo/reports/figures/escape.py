"""The picture of escapes: who is still at the saddle after so many steps, and how that depends on what was swept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossgeo.reports import label
from lossgeo.reports.analysis.arms import Arm, Family, told_apart
from lossgeo.reports.figures import style as _figure
from lossgeo.tables import Row


def draw(arms: Sequence[Arm], rows: Sequence[Row], families: Sequence[Family], words: str) -> Figure:
    """Survival curves; medians against the swept number of most values, theory dashed. `words`: on intervals."""
    shown = [(arm, arm.curve, row) for arm, row in zip(arms, rows, strict=True) if arm.curve is not None]
    names = told_apart([{**arm.settings, "saddle": arm.saddle} for arm, _, _ in shown])
    longest = max(families, key=lambda family: len(family.arms), default=None)
    panels = ["share of trials still there"]
    if longest is not None and len(longest.arms) > 1:
        panels.append("median steps until they leave")
    figure, axes = _figure.panels(panels, _small_print(rows, words))
    axis, colors = axes[0], _figure.colors(names)
    _figure.survival_curves(axis, [curve for _, curve, _ in shown], colors)
    for (_, _, row), color in zip(shown, colors, strict=True):
        if row["predicted_steps"] and len(panels) == 1:
            axis.axvline(row["predicted_steps"], color=color, linestyle="--", linewidth=0.9)
    if longest is not None and len(panels) > 1:
        drawn = [family for family in families if family.key == longest.key]
        of_arm = {id(arm): row for arm, row in zip(arms, rows, strict=True)}
        paints = _figure.colors([family.name for family in drawn])
        for family, paint in zip(drawn, paints, strict=True):
            _draw_medians(axes[1], family, [of_arm[id(arm)] for arm in family.arms], paint)
        at = sorted({value for family in drawn for value in family.values})
        if at[0] > 0:
            _figure.marked_log_x(axes[1], at, min(b / a for a, b in pairwise(at)), [label(value) for value in at])
        axes[1].set_yscale("log")
        axes[1].set_xlabel(longest.key, fontsize=9, color=_figure.INK)
        if 1 < len(drawn) <= _figure.READABLE:
            _figure.legend(figure, [Line2D([], [], color=c) for c in paints], [family.name for family in drawn])
    elif 1 < len(shown) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color) for color in colors], names)
    return figure


def _draw_medians(axis: Axes, family: Family, rows: Sequence[Row], color: Any) -> None:
    for key, style in (("median_steps", "o"), ("predicted_steps", "--")):
        points = [(value, row[key]) for value, row in zip(family.values, rows, strict=True) if row[key]]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=color, linewidth=1.0, markersize=5)
    for value, row in zip(family.values, rows, strict=True):
        if row["low"] is not None and row["high"] is not None:
            axis.vlines(value, row["low"], row["high"], color=color, linewidth=1.2)


def _small_print(rows: Sequence[Row], words: str) -> str:
    return f"{words}; dashed: predicted" if any(row["predicted_steps"] for row in rows) else words
