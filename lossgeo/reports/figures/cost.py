"""The picture of costs: what a probe took of the run, and what one measurement costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lossgeo.reports.figures import style as _figure
from lossgeo.tables import Row


def draw(drawn: Sequence[Row], names: Mapping[str, str]) -> Figure:
    """Bars of the medians over runs, a dot for every run; `names`: of the probes, from top to bottom."""
    titles = {
        "share": "share of the run",
        "seconds": "seconds a measurement",
        "gradient_equivalents": "the same in gradients",
    }
    titles = {column: title for column, title in titles.items() if any(row[column] is not None for row in drawn)}
    runs = len({row["run"] for row in drawn})
    footer = f"bars: medians over {runs} runs; dots: runs" if runs > 1 else f"run {drawn[0]['run']}"
    figure, axes = _figure.panels(list(titles.values()), footer)
    figure.set_figheight(1.5 + 0.42 * len(names))
    figure.set_figwidth(figure.get_figwidth() + 0.065 * max(map(len, names.values())))  # room for the words
    places = range(len(names))[::-1]  # the first on top
    for axis, column in zip(axes, titles, strict=True):
        for place, probe in zip(places, names, strict=True):
            values = [row[column] for row in drawn if row["probe"] == probe and row[column] is not None]
            if values:
                median = float(np.median(values))
                axis.barh(place, median, 0.62, color=_figure.PALETTE[0], alpha=0.85)
                if runs > 1:
                    axis.plot(values, [place] * len(values), "o", color=_figure.INK, markersize=3.5, alpha=0.5)
                text = f"{median:.1%}" if column == "share" else f"{median:.3g}"
                axis.annotate(
                    text,
                    (max(values), place),
                    (5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=_figure.INK,
                )
        axis.set_yticks(list(places), list(names.values()) if axis is axes[0] else [""] * len(names))
        axis.grid(visible=False, axis="y")
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.18)
        axis.set_xlim(left=0)
        if column == "share":
            axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    return figure
