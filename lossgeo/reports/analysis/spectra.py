"""One spectrum as the tables hold it: the measurements of an operator at a step, and the numbers that follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lossgeo.curvature.spectral.spectral_density import Outliers, SpectralDensity, outliers
from lossgeo.reports import error_of, plain
from lossgeo.reports.analysis.intervals import Estimate
from lossgeo.reports.analysis.measurements import ROUNDING, with_interval
from lossgeo.reports.analysis.study import RunData
from lossgeo.tables import Row

NUMBERS = ("value", "low", "high", "squares", "squares_low", "squares_high")  # of the trace; older ones lack the last
APART = 4.0  # standard errors between two estimates of one number: chance does that once in 16,000


@dataclass(frozen=True)
class Measured:
    """The measurements of one operator on one group of parameters, at one step of a run; any table may be empty."""

    run: RunData
    replica: int
    step: int | None  # None: nothing was measured at all
    parameters: str
    eigenvalues: pd.DataFrame
    trace: pd.DataFrame
    nodes: pd.DataFrame  # of the density table

    @property
    def told(self) -> bool:
        """Whether anything was measured, and did not fail."""
        return any(map(len, (self.eigenvalues, self.trace, self.nodes)))

    def shared(self, column: str) -> list[Any]:
        """The different values of a column that all three tables have."""
        tables = (self.eigenvalues, self.trace, self.nodes)
        return list(dict.fromkeys(plain(v) for table in tables if column in table for v in table[column].dropna()))

    def end(self, which: str) -> pd.DataFrame:
        """The eigenvalues of the top or the bottom end, the extreme one first."""
        rows = self.eigenvalues[self.eigenvalues["end"] == which].dropna(subset="eigenvalue")
        return rows.sort_values("rank", kind="stable")

    @cached_property
    def density(self) -> SpectralDensity | None:
        if not len(self.nodes):
            return None
        samples, all_there_are = self.nodes["samples"].iloc[0], (self.run.manifest.get("data") or {}).get("train")
        left = 1 - samples / all_there_are if all_there_are and 0 < samples < all_there_are else 1.0
        return SpectralDensity.read(self.nodes, left)

    @cached_property
    def top(self) -> list[float]:
        """The largest eigenvalues, descending: the longer list of those found and those that the density knows."""
        found: list[float] = self.end("top")["eigenvalue"].astype(float).tolist()
        known: list[float] = self.density.known[::-1].tolist() if self.density else []
        return max(found, known, key=len)

    @cached_property
    def scale(self) -> float:
        """The largest |lambda|."""
        nodes = self.density.nodes if self.density else np.array([])
        every = np.concatenate([nodes, *(self.end(end)["eigenvalue"].to_numpy(float) for end in ("top", "bottom"))])
        return float(np.abs(every).max(initial=0.0))

    @property
    def limit(self) -> int | None:
        """How far down the rule for outliers looks: twice the number of classes, if there are any."""
        outputs = (self.run.manifest.get("data") or {}).get("outputs")
        return 2 * int(outputs) if outputs else None

    @cached_property
    def outliers(self) -> Outliers | None:
        return outliers(self.top, self.limit)

    def numbers(self, near_zero: float) -> Row:
        """The report's columns; shares of the spectrum are cut at +- `near_zero` times the largest |lambda|."""
        apart, density, cut = self.outliers, self.density, near_zero * self.scale
        of_all = self.nodes[self.nodes["part"] == 0] if density else self.nodes
        negative, zero = (Estimate(*share) for share in density.signs(cut)[:2]) if density else (Estimate(), Estimate())
        return {
            "size": next(iter(self.shared("size")), None),
            "samples": next(iter(self.shared("samples")), None),
            "probe": ", ".join(self.shared("probe")) or None,
            **self._extreme("top").columns("lambda_max"),
            **self._extreme("bottom").columns("lambda_min"),
            **self._of_trace(),
            "outliers": apart.number if apart else None,
            "gap": apart.gap if apart else None,
            "edge": apart.edge if apart else None,
            **self._gap_errors(),
            **(self._above(apart.edge) if apart else Estimate()).columns("outliers_by_mass"),
            **zero.columns("mass_near_zero"),
            **negative.columns("negative_mass"),
            "vectors": int(of_all["vector"].nunique()) if density else None,
            "nodes": int(of_all["known"].eq(False).groupby(of_all["vector"]).sum().max()) if density else None,
        }

    @cached_property
    def _ends(self) -> pd.DataFrame:
        """The eigenvalues with their brackets over data where there are some, else with the solver's errors."""
        sizes = {self.run.id: (self.run.manifest.get("data") or {}).get("train")}
        return with_interval(self.eigenvalues, sizes)[["eigenvalue", "low", "high"]]

    def _extreme(self, end: str) -> Estimate:
        found = self._ends.loc[self.end(end).index[:1]]
        return Estimate(*found.iloc[0]) if len(found) else Estimate()

    def _gap_errors(self) -> Row:
        """What the two eigenvalues around the gap leave open of ratio and middle; unknown of those of the density."""
        apart, found = self.outliers, self._ends.loc[self.end("top").index]
        relative = math.nan
        if apart and len(found) == len(self.top):
            around = found.iloc[apart.number - 1 : apart.number + 1]
            relative = float(((around["high"] - around["low"]) / 2 / around["eigenvalue"].abs()).sum(skipna=False))
        gap, edge = (apart.gap, apart.edge) if apart else (math.nan, math.nan)
        return {error_of("gap"): plain(gap * relative), error_of("edge"): plain(edge * relative / 2)}

    def _above(self, edge: float) -> Estimate:
        """How many eigenvalues the density has above an edge."""
        if self.density is None:
            return Estimate()
        size = self.density.size
        return Estimate(*self.density.mass(low=edge)).map(lambda share: size * share)

    def _of_trace(self) -> Row:
        """Trace and Frobenius norm; the norm's interval holds the error over random vectors alone."""
        if not len(self.trace):
            return Estimate().columns("trace") | Estimate().columns("frobenius")
        found = self.trace.reindex(columns=[*NUMBERS]).astype(float).iloc[0]
        norm = Estimate(*found[["squares", "squares_low", "squares_high"]]).map(
            lambda square: math.sqrt(square) if square >= 0 else None
        )
        return Estimate(*found[["value", "low", "high"]]).columns("trace") | norm.columns("frobenius")

    def disagreements(self) -> Iterator[str]:
        """Where the density's first two moments and the trace table's estimates cannot both be right."""
        if self.density is None or not len(self.trace) or len(self.shared("samples")) > 1:
            return  # other examples have another trace
        found, size = self.trace.iloc[0], self.density.size
        for order, name, column, error in (
            (1, "trace", "value", "stderr"),
            (2, "squared Frobenius norm", "squares", "squares_stderr"),
        ):
            moment, stderr = (size * number for number in self.density.moment(order))
            other, spread = float(found[column]), float(found[error])
            rounding = ROUNDING["float32"] * order * size * self.scale**order
            if abs(moment - other) > APART * math.hypot(stderr, spread) + rounding:  # false where one is unknown
                yield f"{name} {moment:.4g} +- {stderr:.2g} by the density, {other:.4g} +- {spread:.2g} by the trace"
