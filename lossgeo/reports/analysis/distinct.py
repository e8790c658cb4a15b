"""Which rows of the table `critical_points` tell of one and the same point.

Many searches end at one point, and a trial that has stopped is measured again at every later step. An interval over
rows would take all of these for evidence. Two rows of one landscape are one point where loss, index and the numbers of
what it does (column `function`, the same for all that a symmetry makes of a point) agree as far as each is known: a
family of points that does one thing with one index, be it by a symmetry or because idle weights are free, is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossgeo.reports import plain
from lossgeo.reports.analysis.study import Study

LANDSCAPE = ("model", "dataset", "surface", "loss")  # keys of a recipe that make it
SHARED = ("parameters", "samples", "batch_norm")  # columns of a measurement that make it
EQUAL = 1e-6  # of numbers of the order 1: more than searches leave open, less than points are apart
COARSE = 1e-3  # up to which a row's own error widens that: with more, rows would hang together that are far apart
SURE = 3.0  # times a row's error: a step of Newton's tells its size, and is no bound
UNKNOWN = 1e-5  # the error of a row that has none, where there was no spectrum
RELATIVE = 1e-9  # of large numbers
OLDER = ["loss", "lambda_min", "lambda_max"]  # what tells points apart where rows have no `function`


def landscapes(study: Study) -> dict[str, Any]:
    """By run what its landscape is made of, as something to group by."""
    return {
        run.id: str([(key, plain(value)) for key, value in run.flat.items() if key.partition(".")[0] in LANDSCAPE])
        for run in study.runs
    }


def searches(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of searches, without those that began where the same trial's search had begun before."""
    found = rows[rows["accepted"].notna()]
    known = found["origin"].notna()
    begun = found["origin"].map(lambda numbers: None if numbers is None else tuple(numbers), na_action="ignore")
    again = found.assign(origin=begun).duplicated(["run", "probe", "replica", "start", "origin"]) & known
    return found[~again]


def distinct(points: pd.DataFrame, landscape: dict[str, Any]) -> pd.DataFrame:
    """One row for each point, the most precise of its rows: that of the smallest gradient norm."""
    if not len(points):
        return points
    keys = [points["run"].map(landscape), *(points[name].astype(str) for name in SHARED)]
    exact = points["index_low"].isna() | (points["index_low"] == points["index_high"])
    keys.append(points["index"].where(exact, -1.0))  # an estimate tells nothing apart
    chosen: list[Any] = []
    for _, rows in points.groupby(keys, sort=False, dropna=False):
        numbers, errors = _numbers(rows)
        for group in _groups(numbers, errors):
            chosen.append(rows.iloc[group]["gradient_norm"].fillna(np.inf).idxmin())
    return points.loc[sorted(chosen)]


def _numbers(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What tells the rows apart, (N, K), and how far each is known, (N,)."""
    if rows["function"].notna().all():
        functions = np.array(rows["function"].tolist(), dtype=float)
        losses = rows["loss"].to_numpy(float)[:, None]
        errors = rows["function_error"].astype(float).fillna(UNKNOWN).to_numpy()
        return np.hstack([losses, functions]), EQUAL / 2 + SURE * np.minimum(errors, COARSE)
    return rows[OLDER].astype(float).fillna(0.0).to_numpy(), np.full(len(rows), EQUAL / 2)


def _groups(numbers: np.ndarray, errors: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that no number tells apart: along each in turn, those whose intervals hang together."""
    waiting: list[tuple[np.ndarray, int]] = [(np.arange(len(numbers)), 0)]
    while waiting:
        rows, settled = waiting.pop()  # `settled`: along so many numbers one after the other they hang together
        column = settled
        while len(rows) > 1 and column < settled + numbers.shape[1]:
            parts = list(_runs(rows, numbers[rows, column % numbers.shape[1]], errors[rows]))
            if len(parts) > 1:
                waiting += [(part, column + 1) for part in parts]
                break
            column += 1
        else:
            yield rows


def _runs(rows: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Sequence[np.ndarray]:
    aside = errors + RELATIVE * np.abs(values)
    low, high = values - aside, values + aside
    order = np.argsort(low, kind="stable")
    reached = np.maximum.accumulate(high[order])
    return np.split(rows[order], np.flatnonzero(low[order][1:] > reached[:-1]) + 1)
