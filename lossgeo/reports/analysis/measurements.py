"""Of all that was measured of one operator on one group of parameters, the best at every step.

A run may be probed again at any time: afterwards, for more pairs, over more examples. Such measurements complete each
other, and a probe hides none of another. Three rules, in this order:

- An operator with other settings, or another mode of batch norm, is another map, and maps are not mixed: of several, a
  run shows the one that was measured at the most steps.
- The measurement over the most examples counts. What a smaller sample says is biased.
- Then the one with the smallest error. A Ritz value never passes the eigenvalue of its rank, so of two that differ by
  more than the error of the inner one, that one has missed an eigenvalue (a copy, mostly), however small its bound.

A measurement that failed counts where none succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

POINT = ["run", "replica", "step"]
KEY = [*POINT, "parameters"]
MAP = ["settings", "batch_norm"]  # what makes operators of one name different maps
USUAL = {"settings": "", "batch_norm": "eval"}  # also where an older table does not say
# columns that are asked for below, whether or not a table has them
SELECTED = ("vector", "part", "residual", "bound", "stderr", "samples", "precision", *MAP)
# of the largest |lambda|: how far off an eigenvalue may be beyond a bound that leaves rounding out
ROUNDING = {"float64": 1e-14, "float32": 1e-6}
QUANTILE = 1.96


def best(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """The rows that count, of one operator in one of the tables eigenvalues, trace and density."""
    if (rows.groupby(["run", "parameters"])["probe"].nunique() <= 1).all():
        return rows
    good = _of_one_map(rows[rows["failure"].isna()])
    part = [*KEY, "end"] if table == "eigenvalues" else KEY
    samples = good["samples"].astype(float).fillna(0)
    good = good[samples == samples.groupby([good[key] for key in part]).transform("max")]
    good = {"eigenvalues": _pairs, "trace": _narrowest, "density": _finest}[table](good)
    failed = rows[rows["failure"].notna()]
    # a probe of another map says nothing of this one; one that never succeeded may have been of it
    of_others = failed["probe"].isin(rows.loc[rows["failure"].isna(), "probe"])
    failed = failed[~of_others | _among(failed, good, ["run", "probe"])]
    failed = failed[~_among(failed, good, KEY)]
    return rows.loc[good.index.union(failed.index)]


def fullest(rows: pd.DataFrame, probe: str | None = None) -> pd.DataFrame:
    """The rows of a probe, by default of each run's that measured at the most steps; others define things otherwise."""
    if probe is not None:
        return rows[rows["probe"] == probe]
    good = rows[rows["failure"].isna()]
    counts = good.groupby(["run", "probe"])["step"].nunique().sort_values(ascending=False, kind="stable").reset_index()
    chosen = rows["run"].map(counts.drop_duplicates("run").set_index("run")["probe"])
    return rows[chosen.isna() | (rows["probe"] == chosen)]


def evaluations(rows: pd.DataFrame) -> pd.DataFrame:
    """run, replica, step, {train,test}_{loss,accuracy}: the table of evaluations, both splits in one row."""
    rows = rows.reindex(columns=[*POINT, "split", "loss", "accuracy"])
    rows = rows.astype({"loss": float, "accuracy": float})  # a column of nulls has no type of its own
    splits = {split: rows[rows["split"] == split].set_index(POINT)[["loss", "accuracy"]] for split in ("train", "test")}
    return pd.concat([part.add_prefix(f"{split}_") for split, part in splits.items()], axis=1).reset_index()


def top_eigenvalues(rows: pd.DataFrame, sizes: Mapping[str, int | None]) -> pd.DataFrame:
    """run, replica, step, lambda_max{,_low,_high,_probe,_samples}, converged, failure, of measured eigenvalues.

    sizes: of the training data, by run.
    """
    rows = rows[((rows["end"] == "top") & (rows["rank"] == 0)) | rows["failure"].notna()]
    found = _named(with_interval(rows, sizes), "lambda_max", "eigenvalue")
    return found.assign(converged=rows["converged"].eq(True), failure=rows["failure"]).drop_duplicates(POINT)


def traces(rows: pd.DataFrame) -> pd.DataFrame:
    """run, replica, step, trace{,_low,_high,_probe,_samples}, of measured traces."""
    return _named(rows, "trace", "value").drop_duplicates(POINT)


def with_interval(rows: pd.DataFrame, sizes: Mapping[str, int | None]) -> pd.DataFrame:
    """Eigenvalues, with the error of solver and draws as their interval where all the data were measured."""
    rows = rows.astype(dict.fromkeys(("eigenvalue", "low", "high", "residual", "stderr", "samples"), float))
    whole = ~(rows["samples"] < rows["run"].map(sizes).astype(float))  # NaN: there is nothing to take a sample of
    solver = np.maximum(rows["residual"], _rounding(rows))
    error = (solver + QUANTILE * rows["stderr"].fillna(0)).where(whole)
    ends = {"low": rows["eigenvalue"] - error, "high": rows["eigenvalue"] + error}
    return rows.assign(**{name: rows[name].fillna(end) for name, end in ends.items()})


def _named(rows: pd.DataFrame, name: str, value: str) -> pd.DataFrame:
    numbers = {value: name, "low": f"{name}_low", "high": f"{name}_high"}
    words = {"probe": f"{name}_probe", "samples": f"{name}_samples"}
    found = rows.rename(columns=numbers | words)[[*POINT, *numbers.values(), *words.values()]]
    return found.astype(dict.fromkeys(numbers.values(), float))


def _among(rows: pd.DataFrame, others: pd.DataFrame, keys: list[str]) -> pd.Series[bool]:
    there = pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(others[keys]))
    return pd.Series(there, rows.index)


def _of_one_map(good: pd.DataFrame) -> pd.DataFrame:
    maps = good[MAP].astype(object).fillna(USUAL)
    each = pd.concat([good[KEY], maps], axis=1)
    here = ["run", "parameters"]
    counts = each.drop_duplicates().groupby([*here, *MAP]).size().rename("count").reset_index()
    counts["unusual"] = (counts[MAP] != pd.Series(USUAL)).sum(axis=1)
    chosen = counts.sort_values(["count", "unusual"], ascending=[False, True], kind="stable").drop_duplicates(here)
    return good[_among(each, chosen, [*here, *MAP])]


def _pairs(good: pd.DataFrame) -> pd.DataFrame:
    """Of every rank the value with the smallest error, among those that reach the outermost."""
    value = good["eigenvalue"].astype(float)
    bound = good["bound"].astype(float).fillna(good["residual"].astype(float)).fillna(np.inf)
    rounding = _rounding(good)
    outward = value.where(good["end"] == "top", -value)
    rank = [*KEY, "end", "rank"]
    outermost = (outward - rounding).groupby([good[key] for key in rank]).transform("max")
    error = bound + rounding
    ordered = good.assign(inside=outward + error < outermost, error=error)
    return ordered.sort_values(["inside", "error"], kind="stable").drop_duplicates(rank)


def _rounding(rows: pd.DataFrame) -> pd.Series[float]:
    """How far off eigenvalues may be whatever their residual, by the largest that was found beside each."""
    scale = rows["eigenvalue"].astype(float).abs().groupby([rows[key] for key in KEY]).transform("max")
    return rows["precision"].map(ROUNDING).astype(float).fillna(max(ROUNDING.values())) * scale


def _narrowest(good: pd.DataFrame) -> pd.DataFrame:
    """The trace with the narrowest interval."""
    width = (good["high"].astype(float) - good["low"].astype(float)).fillna(np.inf)
    return good.assign(width=width).sort_values("width", kind="stable").drop_duplicates(KEY)


def _finest(good: pd.DataFrame) -> pd.DataFrame:
    """The density of the most random vectors, then of the most nodes."""
    counts = good[good["part"] == 0].groupby([*KEY, "probe"])["vector"].agg(["nunique", "size"]).reset_index()
    finest = counts.sort_values(["nunique", "size"], ascending=False, kind="stable").drop_duplicates(KEY)
    return good[_among(good, finest, [*KEY, "probe"])]
