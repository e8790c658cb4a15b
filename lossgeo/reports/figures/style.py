"""The look of every figure: panels, colors and axes.

Figures are made through the object interface alone: pyplot would keep them in a global list and choose a window system.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure  # noqa: PLC0414  # for reports, which import no matplotlib
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lossgeo.reports.analysis.survival import Survival

INK, FAINT = "#262626", "#8c8c8c"
# Okabe & Ito 2008, told apart by readers with any kind of color vision; the yellow is left out, it fades on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LINE = 44  # letters of a legend beside the panels, after which it goes on below
READABLE = 8  # entries of a legend, after which nobody finds his line any more


def panels(titles: Sequence[str], footer: str, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Rows of panels, one after the other, with titles above the first, and lines of small print below the last."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    height = 3.9 if rows == 1 else 0.7 + 2.7 * rows
    figure = Figure(figsize=(4.0 * len(titles) + 0.4, height), layout=layout, facecolor="white")
    axes = list(figure.subplots(rows, len(titles), squeeze=False).flat)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(FAINT)
        axis.tick_params(which="both", colors=INK, labelsize=9, color=FAINT)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
    figure.supxlabel(footer, x=0.01, ha="left", fontsize=8, color="#595959")
    return figure, axes


def saved(figure: Figure, kind: str) -> bytes:
    """A figure as png (150 dpi), svg or pdf; the same figure gives the same bytes."""
    out = io.BytesIO()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "lossgeo"}):  # else every SVG would have ids of its own
        figure.savefig(out, format=kind, dpi=150, metadata=undated[kind])
    return out.getvalue()


def colors(values: Sequence[Any]) -> list[Any]:
    """A color for each of the distinct `values` in their order: numbers go from dark to light, words get hues."""
    numbers = sum(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(values) > len(PALETTE) or numbers > 2:
        scale = matplotlib.colormaps["viridis"]  # even in lightness; its last tenth is too light for lines on white
        return [scale(0.88 * i / max(len(values) - 1, 1)) for i in range(len(values))]
    return list(PALETTE[: len(values)])


def log_ticks(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers, whatever the range: powers of ten and their parts, or even steps."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    widen = max(1.5 / (high / low), 1.0) ** 0.5  # values within a few percent should look alike, not fill the panel
    axis.set_ylim(low / widen, high * widen)
    # below half a decade, 1-2-5 ticks would leave one label or none
    subs = (1, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5) if high < 200 * low else (1,)
    locator = MaxNLocator(5) if high < 4 * low else LogLocator(subs=subs)
    axis.yaxis.set_major_locator(locator)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def survival_curves(axis: Axes, curves: Sequence[Survival], paints: Sequence[Any]) -> None:
    """Kaplan-Meier curves with their intervals, over steps on a logarithmic axis from where the first one falls."""
    for curve, paint in zip(curves, paints, strict=True):
        times = np.concatenate([[0.5], np.maximum(curve.times, 0.5)])
        alive = np.concatenate([[1.0], curve.alive])
        low, high = (np.concatenate([[np.nan], part]) for part in (curve.low, curve.high))  # from the first event on
        axis.step(times, alive, where="post", color=paint, linewidth=1.5)
        axis.fill_between(times, low, high, step="post", color=paint, alpha=0.15, linewidth=0)
    axis.set_xlim(left=0.5 * max(1.0, min(float(curve.times[0]) for curve in curves)))
    axis.set_ylim(0, 1.02)
    steps_axis(axis)


def steps_axis(axis: Axes) -> None:
    """A logarithmic x axis of steps, with plain numbers close enough to read off between."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_xlabel("steps", fontsize=9, color=INK)


def marked_log_x(axis: Axes, at: Sequence[float], gap: float, labels: Sequence[str]) -> None:
    """A logarithmic x axis that names exactly the values tried; the closest two are a factor `gap` apart."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(at)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(at), list(labels))
    axis.set_xlim(at[0] * gap**-0.6, at[-1] * gap**0.6)


def note(axis: Axes, text: str) -> None:
    """A few words in the upper right corner of a panel."""
    written = axis.annotate(text, (0.99, 0.99), xycoords="axes fraction", ha="right", va="top", fontsize=8, color=INK)
    written.set_parse_math(False)


def legend(owner: Axes | Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
    """A quiet legend; one that belongs to the figure stands beside the panels and shows a user's words as they are."""
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    if isinstance(owner, Axes):
        owner.legend(list(handles), list(labels), title=title, loc="best", **style)
        return
    wrapped = ["\n".join(wrap(text, LINE, break_long_words=False)) for text in labels]
    longest = max(len(line) for text in (*wrapped, title or "") for line in text.split("\n"))
    owner.set_figwidth(owner.get_figwidth() + max(1.8, 0.7 + 0.08 * longest))  # the panels keep their size
    box = owner.legend(list(handles), wrapped, title=title, loc="outside right upper", **style)
    for text in [*box.get_texts(), box.get_title()]:
        text.set_parse_math(False)  # a dollar sign in a setting is a dollar sign
