"""The figure of the spectrum report: density on a linear and on a logarithmic axis, and the eigenvalues one by one.

Spectra differ by color; where both runs and steps differ, every run has a row of panels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lossgeo.curvature.spectral.spectral_density import SpectralDensity
from lossgeo.reports import label
from lossgeo.reports.analysis.spectra import Measured
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.figures import style as _figure

T = TypeVar("T")

MOST_ROWS, MOST_COLORS = 4, 6  # drawn of many runs and steps; the table has them all
LINEAR_WIDTH = 0.006  # of the kernels on the linear axis, of its range: an eigenvalue alone is a narrow peak
DECADE_WIDTH = 0.12  # of the kernels on the logarithmic axis, in decades: about a hundred nodes then make a line
DECADES = 4  # shown on either side of zero
MIDDLE = 0.5  # half the width, in decades, of the field between the signs
# mass within +- a value that nodes may leave open for it to be drawn: where they are few, they lie by chance
OPEN = 0.1


@dataclass(frozen=True)
class Line:
    """One spectrum in the figure."""

    measured: Measured
    name: str
    color: Any


def draw(study: Study, spectra: Sequence[Measured], operator: str, near_zero: float) -> Figure:
    """The spectra that hold anything, thinned out where they are many."""
    drawable = [one for one in spectra if one.density or len(one.end("top"))]
    rows = _rows(study, drawable)
    lines = [line for _, of_row in rows for line in of_row]
    density = any(one.density for one in drawable)
    drawings = {"density": _draw_linear, "density per decade": _draw_decades} if density else {}
    if any(len(one.end("top")) for one in drawable):
        drawings["largest and smallest eigenvalues"] = _draw_ends
    figure, axes = _figure.panels(list(drawings), _small_print(operator, drawable, lines, density), len(rows))
    for number, (name, of_row) in enumerate(rows):
        here = axes[number * len(drawings) : (number + 1) * len(drawings)]
        for axis, drawing in zip(here, drawings.values(), strict=True):
            drawing(axis, of_row, lines, near_zero)
        if name:
            _figure.note(here[0], name)
    for column in range(len(drawings)):  # what stands one above the other is compared
        stack = axes[column :: len(drawings)]
        low, high = zip(*(axis.get_ylim() for axis in stack), strict=True)
        for axis in stack:
            axis.set_ylim(min(low), max(high))
    names = list(dict.fromkeys((line.name, line.color) for line in lines))
    if len(names) > 1:
        samples = [Line2D([], [], color=color, linewidth=2) for _, color in names]
        _figure.legend(figure, samples, [name for name, _ in names])
    return figure


def _rows(study: Study, spectra: Sequence[Measured]) -> list[tuple[str, list[Line]]]:
    """The spectra by rows of panels, each row with its name, each spectrum with its own and a color."""
    of_run: dict[str, list[Measured]] = {}
    for one in spectra:
        of_run.setdefault(one.run.id, []).append(one)
    several = {name: len({getattr(one, name) for one in spectra}) > 1 for name in ("parameters", "step")}

    def moment(one: Measured) -> str:
        """What sets a spectrum apart from the others of its run."""
        words = [one.parameters] if several["parameters"] else []
        return ", ".join([*words, f"step {one.step:,}"] if several["step"] or not words else words)

    def setting(one: Measured) -> str:
        return _setting(study, one)

    if len(of_run) == 1 or all(len(ones) == 1 for ones in of_run.values()):
        parts = {"": _thinned(spectra, MOST_COLORS)}
        naming = setting if len(of_run) > 1 else moment
    else:
        shown = _thinned(list(of_run.values()), MOST_ROWS)
        parts = {setting(ones[0]): _thinned(ones, MOST_COLORS) for ones in shown}
        naming = moment
    names = list(dict.fromkeys(naming(one) for ones in parts.values() for one in ones))
    in_time = naming is moment and not several["parameters"]
    colors = dict(zip(names, _figure.colors(range(len(names)) if in_time else names), strict=True))
    return [(name, [Line(one, naming(one), colors[naming(one)]) for one in ones]) for name, ones in parts.items()]


def _setting(study: Study, one: Measured) -> str:
    """What sets a run apart from the others."""
    values = ((key, one.run.flat.get(key)) for key in study.swept)
    return ", ".join(f"{key} {label(value)}" for key, value in values if value is not None) or f"run {one.run.id}"


def _thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly chosen, the first and the last among them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def _draw_linear(axis: Axes, lines: Sequence[Line], every: Sequence[Line], near_zero: float) -> None:
    """Kernels on the linear axis; single eigenvalues are seen on the logarithmic scale of the density."""
    nodes = np.concatenate([line.measured.density.nodes for line in every if line.measured.density])
    margin = 0.03 * (float(np.ptp(nodes)) or float(np.abs(nodes).max()) or 1.0)
    low, high = float(nodes.min()) - margin, float(nodes.max()) + margin
    at, width = np.linspace(low, high, 2000), LINEAR_WIDTH * (high - low)
    floors, peaks = [], []
    for line in lines:
        if line.measured.density is not None:
            values = line.measured.density.smooth(at, width)
            axis.plot(at, values, color=line.color, linewidth=1.3)
            axis.fill_between(at, values, color=line.color, alpha=0.10, linewidth=0)
            floors.append(0.1 / (line.measured.density.size * width * math.sqrt(2 * math.pi)))  # a tenth of one peak
            peaks.append(float(values.max()))
    axis.set_yscale("log")
    if floors:
        axis.set_ylim(min(floors), 3 * max(peaks))
    _figure.log_ticks(axis)
    axis.set_xlim(low, high)
    axis.set_xlabel("$\\lambda$", fontsize=9, color=_figure.INK)


def _draw_decades(axis: Axes, lines: Sequence[Line], every: Sequence[Line], near_zero: float) -> None:
    """log10 |lambda| to the right for positive and to the left for negative; areas are shares of the eigenvalues."""
    top = math.ceil(math.log10(max(line.measured.scale for line in every) or 1.0) - 0.3)
    bottom = top - DECADES
    end = top + 0.6
    for line in lines:
        density = line.measured.density
        if density is None:
            continue
        resolved = _resolved(density, bottom, top)
        at = np.linspace(resolved, end, 800)
        left, right = (density.smooth_log(at, DECADE_WIDTH, sign, 10.0**resolved) for sign in (-1, 1))
        inside = float(np.diff(density.cumulative([-(10.0**resolved), 10.0**resolved]))[0])
        edge = resolved - bottom + MIDDLE
        x = np.concatenate([-(at - bottom + MIDDLE)[::-1], [-edge, edge], at - bottom + MIDDLE])
        y = np.concatenate([left[::-1], np.full(2, inside / (2 * edge)), right])
        axis.plot(x, y, color=line.color, linewidth=1.3)
        axis.fill_between(x, y, color=line.color, alpha=0.10, linewidth=0)
        if len(lines) == 1:
            _figure.note(axis, f"{inside:.0%} within {10.0**resolved:.1g}")
    if len(lines) == 1 and lines[0].measured.scale > 0:
        edge = math.log10(near_zero * lines[0].measured.scale) - bottom + MIDDLE
        axis.axvspan(-edge, edge, color="#f2f2f2", linewidth=0, zorder=0)
    ticks = [decade - bottom + MIDDLE for decade in range(bottom + 1, top + 1)]
    names = [f"10$^{{{decade}}}$" for decade in range(bottom + 1, top + 1)]
    step = 2
    axis.set_xticks(
        [*(-tick for tick in ticks[::-step]), 0.0, *ticks[::-step][::-1]],
        [*(f"-{name}" for name in names[::-step]), "0", *names[::-step][::-1]],
    )
    axis.set_xlim(-(end - bottom + MIDDLE), end - bottom + MIDDLE)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("$\\lambda$", fontsize=9, color=_figure.INK)


def _resolved(density: SpectralDensity, bottom: int, top: int) -> float:
    """The decade, to a quarter, down to which the nodes tell where the mass lies."""
    steps = np.arange(bottom, top, 0.25)
    return next((float(step) for step in steps if density.open(10.0**step) <= OPEN), float(top))


def _draw_ends(axis: Axes, lines: Sequence[Line], every: Sequence[Line], near_zero: float) -> None:
    """A stem for every eigenvalue that was found, by rank: the largest upwards, the smallest with open heads."""
    axis.axhline(0, color=_figure.FAINT, linewidth=0.8)
    size, most = (4.5 if len(lines) == 1 else 3.0), 1.0
    for i, line in enumerate(lines):
        aside = 0.7 * (i - (len(lines) - 1) / 2) / max(len(lines), 2)
        for end, fill in (("top", line.color), ("bottom", "white")):
            rows = line.measured.end(end)
            rank, value = rows["rank"].to_numpy(float) + 1 + aside, rows["eigenvalue"].to_numpy(float)
            axis.vlines(rank, 0, value, color=line.color, linewidth=1.0, alpha=0.6)
            most = max([most, *rank])
            low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
            known = np.isfinite(low) & np.isfinite(high)
            axis.vlines(rank[known], low[known], high[known], color=line.color, linewidth=3.0, alpha=0.25)
            axis.plot(rank, value, "o", color=line.color, mfc=fill, markersize=size, markeredgewidth=1.0)
    apart = lines[0].measured.outliers
    if len(lines) == 1 and apart is not None:
        axis.axhline(apart.edge, color=_figure.INK, linewidth=0.9, linestyle="--")
        _figure.note(axis, f"{apart.number} above the widest gap ({apart.gap:.3g} x)")
    axis.set_xlim(0.3, most + 0.7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("rank", fontsize=9, color=_figure.INK)


def _small_print(operator: str, spectra: Sequence[Measured], lines: Sequence[Line], density: bool) -> str:
    sizes = sorted({size for one in spectra for size in one.shared("size")})
    words = [f"{operator}, P = {' to '.join(f'{size:,}' for size in dict.fromkeys((sizes[0], sizes[-1])))}"]
    if density:
        words.append(f"kernels: {LINEAR_WIDTH:.1%} of the range, {DECADE_WIDTH:g} decades")
        words.append("flat: what the nodes do not resolve")
    if density and len(lines) == 1:
        words.append("shaded: near zero")
    if any(line.measured.end(end)["low"].notna().any() for line in lines for end in ("top", "bottom")):
        words.append("bars: brackets for the values over all examples")
    if len(lines) < len(spectra):
        words.append(f"{len(lines)} of {len(spectra)} spectra drawn")
    return "; ".join(words)
