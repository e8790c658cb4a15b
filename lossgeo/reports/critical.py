"""How does the index of critical points go with their loss? And how many of the searches found one at all.

Every row has the shares of searches that were accepted and that ended at gradient-flat points: the curve of index
against loss over the points that were found means what these shares allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd

from lossgeo.reports import Report, Summary
from lossgeo.reports.analysis.arms import settings_of
from lossgeo.reports.analysis.intervals import mean, root_mean_square, share, spearman
from lossgeo.reports.analysis.power_laws import limit
from lossgeo.reports.analysis.study import Study
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

EXPECTED = ["expected_index", "expected_loss"]
COLUMNS = ["run", "failure", "accepted", "flat", "loss", "index", "size", "kind", "spectrum", *EXPECTED]
FINITE_SIZE = -2 / 3  # exponent of the law of finite size: that of the edge of a semicircle
EQUAL = 1e-6  # relative difference of losses up to which they are one


@final
class Critical(Report):
    """Critical points by probe `critical_points`: accepted and flat searches, kinds, and index against loss.

    points: those within the gradient tolerance, found by searches or measured as they are; minimum_share of them are
    minima. spearman: rank correlation of index and loss over them, with its 95% interval; None for fewer than six, or
    where one is constant. theory_share: those with just the index and the loss of a critical point that is
    known. index_rms: root mean square of index - expected index, over the number of parameters. energy: loss over the
    number of parameters N, mean over runs of that of their minima; energy_limit: a in energy = a + b N^(-2/3) where
    several N were tried, the law of finite size in mean-field glasses.

    Source: Dauphin et al. 2014 for index against loss; Frye et al. 2021 for gradient-flat points.
    """

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than the seed."""
        every = study.table("critical_points").reindex(columns=COLUMNS)
        every = every.astype(dict.fromkeys(["loss", "index", "size", *EXPECTED], float))
        arms = [(settings, every[every["run"].isin(runs)]) for settings, runs in settings_of(study)]
        rows = tuple({**settings, **_numbers(found), **_energy(found, arms)} for settings, found in arms)

        def draw() -> Figure:
            from lossgeo.reports.figures import critical

            return critical.draw([(settings, _points(found)) for settings, found in arms])

        drawable = any(row["points"] for row in rows)
        notes, shared = tuple(_notes(study, every, rows)), {"energy_limit": [0] * len(rows)}
        return Summary("Critical points", rows, notes, draw if drawable else None, shared)


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
        **share(accepted, len(searches)).columns("accepted_share"),
        **share(flat, len(searches)).columns("flat_share"),
        "points": len(points),
        **{kind: int(kinds.get(kind, 0)) for kind in ("minimum", "saddle", "maximum")},
        **share(int(kinds.get("minimum", 0)), len(points)).columns("minimum_share"),
        **spearman(points["loss"].to_numpy(), points["index"].to_numpy()).columns("spearman"),
        **_theory(points[points["expected_index"].notna()]),
    }


def _energies(found: pd.DataFrame) -> np.ndarray:
    """Mean loss of the minima over the number of parameters, of every run that found some."""
    minima = _points(found)
    minima = minima[minima["kind"] == "minimum"]
    return (minima["loss"] / minima["size"]).groupby(minima["run"]).mean().to_numpy()


def _energy(found: pd.DataFrame, arms: list[tuple[Row, pd.DataFrame]]) -> Row:
    """The mean energy of the minima, and its limit as the number of parameters grows."""
    sizes = [float(other["size"].max()) for _, other in arms]
    grown = limit(sizes, [_energies(other) for _, other in arms], FINITE_SIZE)
    return {
        **mean(_energies(found).tolist()).columns("energy"),
        **grown.columns("energy_limit"),
    }


def _theory(known: pd.DataFrame) -> Row:
    """The critical points of which theory says something, against theory."""
    index, expected = known["index"].to_numpy(), known["expected_index"].to_numpy()
    loss, level = known["loss"].to_numpy(), known["expected_loss"].to_numpy()
    alike = (index == expected) & (np.abs(loss - level) <= EQUAL * np.maximum(1.0, np.abs(level)))
    exact = len(known) if (expected == expected.round()).all() else 0  # else it is a mean that theory gives
    return {
        **share(int(alike.sum()), exact).columns("theory_share"),
        **root_mean_square((index - expected) / known["size"].to_numpy()).columns("index_rms"),
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
