"""How does the index of critical points go with their loss? And how many of the searches found one at all.

Every row has the shares of searches that were accepted and that ended at gradient-flat points: the curve of index
against loss over the points that were found means what these shares allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import pandas as pd

from lossgeo.reports import Report, Summary
from lossgeo.reports.analysis.arms import settings_of
from lossgeo.reports.analysis.distinct import SHARED, distinct, landscapes, searches
from lossgeo.reports.analysis.intervals import mean, root_mean_square, share, spearman
from lossgeo.reports.analysis.power_laws import limit
from lossgeo.reports.analysis.study import Study
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

KINDS = ("minimum", "saddle", "maximum", "degenerate")
NUMBERS = [
    *("loss", "gradient_norm", "index", "index_low", "index_high", "size", "lambda_min", "lambda_max"),
    *("function_error", "expected_index", "expected_loss"),
]
WORDS = ["run", "replica", "start", "probe", "failure", "accepted", "flat", "kind", "spectrum", "function", "origin"]
FINITE_SIZE = -2 / 3  # exponent of the law of finite size: that of the edge of a semicircle
EQUAL = 1e-6  # relative difference of losses up to which they are one


@final
class Critical(Report):
    """Critical points by probe `critical_points`: accepted and flat searches, kinds, and index against loss.

    searches: those from different places; a trial that has stopped is searched from once. found: rows within the
    gradient tolerance, found by searches or measured as they are. points: the different points among these; rows of
    one landscape are one point where they agree in loss, index and what the network does (or in theta, up to the
    surface's symmetries). All that follows is over points. minimum_share: those that are minima; whether degenerate
    ones are is open, which the interval allows for. spearman: rank correlation of index and loss, with its 95%
    interval; None for fewer than six, or where one is constant. theory_share: those with just the loss and
    the index of a critical point that is known, an estimated index being compared through its interval. index_rms:
    root mean square of index - expected index, over the number of parameters, where the index was counted. energy:
    loss over the number of parameters N, mean over runs of that of their minima; energy_limit: a in energy = a + b
    N^(-2/3) where several N were tried, the law of finite size in mean-field glasses.

    Source: Dauphin et al. 2014 for index against loss; Frye et al. 2021 for gradient-flat points.
    """

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than the seed."""
        every = study.table("critical_points").reindex(columns=[*WORDS, *SHARED, *NUMBERS])
        every = every.astype(dict.fromkeys(NUMBERS, float)).reset_index(drop=True)
        made = landscapes(study)
        arms = [
            Found(settings, rows, distinct(_critical(rows), made))
            for settings, runs in settings_of(study)
            for rows in [every[every["run"].isin(runs)]]
        ]
        rows = tuple({**arm.settings, **_numbers(arm), **_energy(arm, arms)} for arm in arms)

        def draw() -> Figure:
            from lossgeo.reports.figures import critical

            return critical.draw([(arm.settings, arm.points) for arm in arms])

        drawable = any(row["points"] for row in rows)
        notes, shared = tuple(_notes(study, every, rows)), {"energy_limit": [0] * len(rows)}
        nothing = not any(row["measured"] for row in rows)
        return Summary("Critical points", rows, notes, draw if drawable else None, shared, nothing)


class Found(NamedTuple):
    """What was found with equal settings."""

    settings: Row
    rows: pd.DataFrame  # one a measurement
    points: pd.DataFrame  # one a critical point


def _critical(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of critical points."""
    return rows[rows["failure"].isna() & rows["kind"].notna() & (rows["kind"] != "not critical")]


def _numbers(arm: Found) -> Row:
    looked, points = searches(arm.rows), arm.points
    kinds = {kind: int((points["kind"] == kind).sum()) for kind in KINDS}
    accepted, flat = (int(looked[column].eq(True).sum()) for column in ("accepted", "flat"))
    # a degenerate point may be a minimum
    most = share(kinds["minimum"] + kinds["degenerate"], len(points))
    return {
        "measured": int(arm.rows["failure"].isna().sum()),
        "searches": len(looked),
        **share(accepted, len(looked)).columns("accepted_share"),
        **share(flat, len(looked)).columns("flat_share"),
        "found": len(_critical(arm.rows)),
        "points": len(points),
        **kinds,
        **replace(share(kinds["minimum"], len(points)), high=most.high).columns("minimum_share"),
        **spearman(points["loss"].to_numpy(), points["index"].to_numpy()).columns("spearman"),
        **_theory(points[points["expected_index"].notna()]),
    }


def _energies(points: pd.DataFrame) -> np.ndarray:
    """Mean loss of the minima over the number of parameters, of every run that found some."""
    minima = points[points["kind"] == "minimum"]
    return (minima["loss"] / minima["size"]).groupby(minima["run"]).mean().to_numpy()


def _energy(arm: Found, arms: list[Found]) -> Row:
    """The mean energy of the minima, and its limit as the number of parameters grows."""
    sizes = [float(other.rows["size"].max()) for other in arms]
    grown = limit(sizes, [_energies(other.points) for other in arms], FINITE_SIZE)
    return {
        **mean(_energies(arm.points).tolist()).columns("energy"),
        **grown.columns("energy_limit"),
    }


def _theory(known: pd.DataFrame) -> Row:
    """The critical points of which theory says something, against theory."""
    index, expected = known["index"].to_numpy(), known["expected_index"].to_numpy()
    low, high = (known[f"index_{end}"].fillna(known["index"]).to_numpy() for end in ("low", "high"))
    loss, level = known["loss"].to_numpy(), known["expected_loss"].to_numpy()
    within = (low <= expected) & (expected <= high)
    alike = within & (np.abs(loss - level) <= EQUAL * np.maximum(1.0, np.abs(level)))
    exact = len(known) if (expected == expected.round()).all() else 0  # else it is a mean that theory gives
    off = ((index - expected) / known["size"].to_numpy())[low == high]  # an estimate is off by its own error too
    return {
        **share(int(alike.sum()), exact).columns("theory_share"),
        **root_mean_square(off).columns("index_rms"),
    }


def _notes(study: Study, every: pd.DataFrame, rows: tuple[Row, ...]) -> Iterator[str]:
    found, points = (sum(row[name] for row in rows) for name in ("found", "points"))
    if found > points:
        yield f"{found - points} of {found} measurements met a point that another had met: points count once."
    if _critical(every)["function"].isna().any():
        yield (
            "Points of an older version, without the column `function`, are told apart by loss and the ends of the"
            " spectrum alone."
        )
    if any(row["degenerate"] for row in rows):
        yield "degenerate: no derivative up to the fourth says whether it is a minimum, a maximum or a saddle."
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
