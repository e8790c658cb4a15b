"""The picture of critical points: index against loss, theory beside it, and the spectra of high and low ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lossgeo.reports.analysis.arms import told_apart
from lossgeo.reports.figures import style as _figure
from lossgeo.tables import Row

BANDS = ("lowest", "middle", "highest")  # thirds of the points by loss
BINS = 40
TAILS = (0.5, 99.5)  # percentiles of the eigenvalues between which they are shown


def draw(arms: Sequence[tuple[Row, pd.DataFrame]]) -> Figure:
    """`arms`: settings and critical points of each."""
    points = pd.concat([found for _, found in arms])
    spectra = points[points["spectrum"].notna()]
    titles = ["index against loss", "critical points by index"]
    if len(spectra) >= len(BANDS):
        titles.append("eigenvalues by loss")
    figure, axes = _figure.panels(titles, _small_print(points))
    names = told_apart([settings for settings, _ in arms])
    colors = _figure.colors(names)
    for (_, found), color in zip(arms, colors, strict=True):
        axes[0].plot(found["loss"], found["index"], "o", color=color, markersize=4.5, alpha=0.5, markeredgewidth=0)
        _draw_theory(axes[0], found[found["expected_index"].notna()])
        counts = found["index"].round().value_counts().sort_index()
        x, y = counts.index.to_numpy(float), counts.to_numpy(float)
        axes[1].plot(x, y, "o-", color=color, linewidth=1.0, markersize=5)
    labels = (("loss", "index"), ("index", "points"), ("eigenvalue", "density"))
    for axis, (below, beside) in zip(axes, labels, strict=False):
        axis.set_xlabel(below, fontsize=9, color=_figure.INK)
        axis.set_ylabel(beside, fontsize=9, color=_figure.INK)
    axes[1].set_ylim(bottom=0)
    for counted in (axes[0].yaxis, axes[1].xaxis):
        counted.set_major_locator(MaxNLocator(6, integer=True))
    if len(axes) > 2:
        _draw_spectra(axes[2], spectra)
    if 1 < len(arms) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color, marker="o", linestyle="") for color in colors], names)
    return figure


def _draw_theory(axis: Axes, theory: pd.DataFrame) -> None:
    """A line where theory gives a mean for every loss; rings where it gives each point an index of its own."""
    if _counted(theory):
        x, y = theory["loss"], theory["expected_index"]
        axis.plot(x, y, "o", markersize=8, markerfacecolor="none", markeredgecolor=_figure.INK, markeredgewidth=0.7)
        return
    along = theory.sort_values("loss")
    axis.plot(along["loss"], along["expected_index"], "--", color=_figure.INK, linewidth=0.9)


def _counted(theory: pd.DataFrame) -> bool:
    return bool((theory["expected_index"] == theory["expected_index"].round()).all())


def _draw_spectra(axis: Axes, spectra: pd.DataFrame) -> None:
    """A histogram of all eigenvalues of the points in each third of the losses."""
    ordered = spectra.sort_values("loss", kind="stable")["spectrum"].tolist()
    low, high = np.percentile(np.concatenate(ordered), TAILS)
    edges = np.linspace(low, high, BINS + 1)
    paints = _figure.colors([0, 1, 2])
    for number, (band, paint) in enumerate(zip(BANDS, paints, strict=True)):
        first, last = (len(ordered) * n // len(BANDS) for n in (number, number + 1))
        values = np.clip(np.concatenate(ordered[first:last]), low, high)
        axis.stairs(np.histogram(values, edges, density=True)[0], edges, color=paint, linewidth=1.3, label=band)
    axis.axvline(0, color=_figure.FAINT, linewidth=0.8)
    axis.set_ylim(bottom=0)
    _figure.legend(axis, *axis.get_legend_handles_labels(), title="third of the losses")


def _small_print(points: pd.DataFrame) -> str:
    words = f"every dot one of {len(points)} critical points"
    theory = points[points["expected_index"].notna()]
    return f"{words}; {'rings' if _counted(theory) else 'dashed'}: theory" if len(theory) else words
