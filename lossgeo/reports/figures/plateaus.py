"""The picture of plateaus: how long they last, and the time to leave beside what lambda_min predicts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossgeo.reports.analysis.arms import told_apart
from lossgeo.reports.analysis.survival import Survival
from lossgeo.reports.figures import style as _figure
from lossgeo.tables import Row


def draw(groups: Sequence[tuple[Row, Survival, pd.DataFrame]], words: str) -> Figure:
    """`groups`: settings, lengths, and leaving_steps beside predicted_steps of each; `words`: on the intervals."""
    figure, axes = _figure.panels(
        ["share of plateaus that last longer", "steps from the middle to the end"],
        f"{words}; dashed: as predicted by the smallest eigenvalue",
    )
    names = told_apart([settings for settings, _, _ in groups])
    colors = _figure.colors(names)
    both = []
    _figure.survival_curves(axes[0], [curve for _, curve, _ in groups], colors)
    for (_, _, theory), color in zip(groups, colors, strict=True):
        axes[1].plot(theory["predicted_steps"], theory["leaving_steps"], "o", color=color, markersize=4.5, alpha=0.6)
        both += [*theory["predicted_steps"], *theory["leaving_steps"]]
    if both:
        ends = [0.8 * min(both), 1.25 * max(both)]
        axes[1].plot(ends, ends, "--", color=_figure.INK, linewidth=0.9)
        _figure.log_ticks(axes[1])
    _figure.steps_axis(axes[1])
    axes[1].set_xlabel("predicted steps", fontsize=9, color=_figure.INK)
    if 1 < len(groups) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color) for color in colors], names)
    return figure
