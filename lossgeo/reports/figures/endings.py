"""The picture of endings: the distribution of the last losses, a curve for each setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossgeo.reports.analysis.arms import told_apart
from lossgeo.reports.figures import style as _figure
from lossgeo.tables import Row


def draw(arms: Sequence[tuple[Row, np.ndarray]]) -> Figure:
    """`arms`: settings and last losses of each."""
    figure, axes = _figure.panels(["share of trials that end lower"], "every step one trial")
    names = told_apart([settings for settings, _ in arms])
    colors = _figure.colors(names)
    for (_, losses), color in zip(arms, colors, strict=True):
        axes[0].ecdf(losses, color=color, linewidth=1.5)
    axes[0].set_xlabel("last loss", fontsize=9, color=_figure.INK)
    if 1 < len(arms) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color) for color in colors], names)
    return figure
