"""How does the index of critical points go with their loss? And how many of the searches found one at all.

The decision a reader would question: the shares of searches that were accepted, and that ended at gradient-flat points,
stand in every row. A curve of index against loss over the few points that were found means what these shares allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import pandas as pd

from lossgeo.reports import Report, Row, Summary, label
from lossgeo.reports._arms import settings_of
from lossgeo.statistics import share, spearman
from lossgeo.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ["run", "failure", "accepted", "flat", "loss", "index", "kind"]


@final
class Critical(Report):
    """Critical points by probe `critical_points`: accepted and flat searches, kinds, and index against loss.

    points: those within the gradient tolerance, found by searches or measured as they are. spearman: rank correlation
    of index and loss over them, with its 95% bootstrap interval; None for fewer than five, or where one is constant.

    Source: Dauphin et al. 2014 for index against loss; Frye et al. 2021 for gradient-flat points.
    """

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than the seed."""
        every = study.table("critical_points").reindex(columns=COLUMNS)
        arms = [(settings, every[every["run"].isin(runs)]) for settings, runs in settings_of(study)]
        rows = tuple({**settings, **_numbers(found)} for settings, found in arms)
        drawable = any(row["points"] for row in rows)
        return Summary(
            "Critical points",
            rows,
            tuple(_notes(study, every, rows)),
            (lambda: _draw(arms)) if drawable else None,
        )


def _points(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of critical points."""
    return found[found["failure"].isna() & found["kind"].notna() & (found["kind"] != "not critical")]


def _numbers(found: pd.DataFrame) -> Row:
    searches, points = found[found["accepted"].notna()], _points(found)
    kinds = points["kind"].value_counts()
    accepted, flat = (int(searches[column].eq(True).sum()) for column in ("accepted", "flat"))
    return {
        "measured": int(found["failure"].isna().sum()),
        "searches": len(searches),
        **share("accepted_share", accepted, len(searches)),
        **share("flat_share", flat, len(searches)),
        "points": len(points),
        **{kind: int(kinds.get(kind, 0)) for kind in ("minimum", "saddle", "maximum")},
        **spearman("spearman", points["loss"].to_numpy(float), points["index"].to_numpy(float)),
    }


def _notes(study: Study, every: pd.DataFrame, rows: tuple[Row, ...]) -> Iterator[str]:
    without = len(study.runs) - every["run"].nunique()
    if without:
        yield f"{without} of {len(study.runs)} runs did not look for critical points: probe `critical_points` does."
    failed = int(every["failure"].notna().sum())
    if failed:
        yield f"{failed} measurements failed: {every['failure'].dropna().iloc[0]}."
    if any(row["searches"] for row in rows):
        yield (
            "accepted_share: searches that ended within the gradient tolerance; flat_share: that ended where H g is"
            " close to zero and g is not, from which no step leads on."
        )


def _draw(arms: list[tuple[Row, pd.DataFrame]]) -> Figure:
    """Index against loss, every point a dot."""
    from matplotlib.lines import Line2D

    from lossgeo.reports import _figure

    figure, axes = _figure.panels(["index against loss", "critical points by index"], "every dot a critical point")
    names = [", ".join(f"{key} {label(value)}" for key, value in settings.items()) for settings, _ in arms]
    colors = _figure.colors(names)
    for (_, found), color in zip(arms, colors, strict=True):
        points = _points(found)
        axes[0].plot(points["loss"], points["index"], "o", color=color, markersize=4.5, alpha=0.5, markeredgewidth=0)
        counts = points["index"].round().value_counts().sort_index()
        x, y = counts.index.to_numpy(float), counts.to_numpy(float)
        axes[1].plot(x, y, "o-", color=color, linewidth=1.0, markersize=5)
    for axis, below, beside in ((axes[0], "loss", "index"), (axes[1], "index", "points")):
        axis.set_xlabel(below, fontsize=9, color=_figure.INK)
        axis.set_ylabel(beside, fontsize=9, color=_figure.INK)
    axes[1].set_ylim(bottom=0)
    if 1 < len(arms) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color, marker="o", linestyle="") for color in colors], names)
    return figure
