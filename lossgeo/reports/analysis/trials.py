"""How trials ended, and numbers over one set of them.

A trial that diverged stands where it broke: what is measured there says nothing of where training leads. A trial that
has ended otherwise is evaluated no more, while probes go on to find it where it stands. So the numbers of one row are
over the same trials, those of which all of them are known, and the others are counted.

A run by itself is a run of one trial.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lossgeo.reports import plain
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.analysis.study import RunData

TRIAL = ["run", "replica"]
TYPES = {"run": "str", "replica": "int64"}  # of tables without rows too
DIVERGENCE = 1e4  # where a recipe does not say
LOOKED_AT = ("loss", "accuracy", "gradient_norm")  # columns of evaluations
BELOW = {"train_loss_below": "loss", "gradient_norm_below": "gradient_norm"}  # rules to end by, and what they look at
WORDS = ("probe", "samples", "converged", "failure")  # endings of columns that are no numbers
COUNTS = ("trials", "used", "diverged", "ended", "failed")
Ending = tuple[str, int]  # how and at which step


def ends(runs: Sequence[RunData], evaluations: pd.DataFrame, escapes: pd.DataFrame) -> pd.DataFrame:
    """run, replica, how, ended, lost: one row a trial.

    how: done, diverged, escaped, returned, stopped (by a rule), or going where its run has not ended. ended: the step
    at which it ended before its run did, else NaN. lost: of a trial that diverged, the first step that does not count.
    """
    evaluations = evaluations.reindex(columns=[*TRIAL, "step", "split", *LOOKED_AT])
    evaluations = evaluations.astype(dict.fromkeys(LOOKED_AT, float))
    of_train = evaluations[evaluations["split"] == "train"].sort_values("step", kind="stable")
    escapes = escapes.reindex(columns=[*TRIAL, "saddle", "ended", "last_step"])
    looked, watched = dict(list(of_train.groupby("run"))), dict(list(escapes.groupby("run")))
    rows = [{"run": run.id, **row} for run in runs for row in _ends(run, looked.get(run.id), watched.get(run.id))]
    return pd.DataFrame(rows, columns=[*TRIAL, "how", "ended", "lost"]).astype({**TYPES, "ended": float, "lost": float})


def _ends(run: RunData, looked: pd.DataFrame | None, watched: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    curves: dict[Any, pd.DataFrame] = {} if looked is None else dict(list(looked.groupby("replica")))
    numbers = sorted({*range(int(run.recipe.get("replicas") or 1)), *curves})
    if len(numbers) > 1:
        recorded = _recorded(run, watched)
        known = dict(_inferred(run, numbers, curves) if recorded is None else recorded)
    else:
        known = {numbers[0]: ("diverged", int(run.manifest.get("step") or 0))} if run.status == "diverged" else {}
    otherwise = "done" if run.status in ("done", "diverged") else "going"
    for number in numbers:
        how, ended = known.get(number, (otherwise, None))
        lost = ended if how == "diverged" else None
        if lost is not None and number in curves and len(numbers) > 1:
            # a step that breaks a trial leaves what was evaluated before it as it was
            here = curves[number].loc[curves[number]["step"] == lost, "loss"]
            lost += int(len(here) > 0 and not _broken(run, curves[number], float(here.iloc[-1])))
        yield {"replica": number, "how": how, "ended": ended, "lost": lost}


def _recorded(run: RunData, watched: pd.DataFrame | None) -> list[tuple[int, Ending]] | None:
    """What run.json says of trials that have ended; of an older run the table of escapes, if it has one."""
    recorded: Mapping[str, Mapping[str, int]] | None = run.manifest.get("trials")
    if recorded is not None:
        return [(int(number), (how, step)) for how, steps in recorded.items() for number, step in steps.items()]
    if watched is None:
        return None
    last = watched.sort_values("saddle", kind="stable").drop_duplicates("replica", keep="last")
    every = zip(last["replica"], last["ended"], last["last_step"], strict=True)
    return [(int(number), (how, int(step))) for number, how, step in every if how != "budget"]


def _inferred(run: RunData, numbers: Sequence[int], curves: Mapping[int, pd.DataFrame]) -> Iterator[tuple[int, Ending]]:
    """Of a run older than the record: who broke at an evaluation, or was missing at the last one and met no rule."""
    last = max((int(curve["step"].iloc[-1]) for curve in curves.values()), default=0)
    for number in numbers if curves else ():
        if number not in curves:
            yield number, ("diverged", 0)
            continue
        curve = curves[number]
        final = curve.iloc[-1]
        step = int(final["step"])
        if run.status == "diverged" or _broken(run, curve, float(final["loss"])):
            yield number, ("diverged", step)
        elif step < last:
            yield number, ("stopped" if _met(run, final) else "diverged", step)


def _broken(run: RunData, curve: pd.DataFrame, loss: float) -> bool:
    first = float(curve["loss"].iloc[0])
    limit = float(run.recipe.get("divergence") or DIVERGENCE) * first if first > 0 else math.inf
    return not (math.isfinite(loss) and loss <= limit)


def _met(run: RunData, final: pd.Series[Any]) -> bool:
    """Whether an evaluation met a rule of the recipe that ends training."""
    rules = run.recipe.get("stop") or {}
    below = ((rules.get(rule), final[column]) for rule, column in BELOW.items())
    above = rules.get("train_accuracy_above")
    return any(bound is not None and value < bound for bound, value in below) or (
        above is not None and final["accuracy"] > above
    )


def counted(rows: pd.DataFrame, ends: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table without those of trials that had diverged."""
    lost = rows[TRIAL].astype(TYPES).merge(ends, how="left", on=TRIAL)["lost"].to_numpy()
    return rows[~(rows["step"].to_numpy() >= lost)]  # NaN compares false


def by_step(frames: Mapping[str, pd.DataFrame], ends: pd.DataFrame) -> pd.DataFrame:
    """A row a run and step, over the trials that were on their way, or ended there.

    frames: a row a trial and step, by the name of the column that is known where measuring succeeded. Columns beside
    theirs: trials, all of the run; used, those that the numbers are over; of the others diverged and ended (otherwise),
    by that step; failed, those of which some number is missing.
    """
    moving = {}
    for name, frame in frames.items():
        rows = counted(frame.astype({**TYPES, "step": int}), ends)
        ended = rows[TRIAL].merge(ends, how="left", on=TRIAL)["ended"].to_numpy()
        moving[name] = rows[~(rows["step"].to_numpy() > ended)]
    keys = ["run", "step"]
    steps = pd.concat([frame[keys] for frame in frames.values()]).drop_duplicates().astype({"run": "str", "step": int})
    trials = steps.merge(ends, on="run")
    trials["diverged"] = trials["step"] >= trials["lost"]
    trials["ended"] = ~trials["diverged"] & (trials["step"] > trials["ended"])
    return _together(moving, trials, steps)


def at_end(frames: Mapping[str, pd.DataFrame], ends: pd.DataFrame, step: int | None = None) -> pd.DataFrame:
    """A row a run, which becomes the index: the last numbers of its trials, or the last at or before `step`.

    Trials that diverged count as such, at an earlier step too. A trial that has ended is found where it was then.
    Columns as of `by_step` without `ended`, and from each frame the step it is of, <name>_step.
    """
    last = {}
    for name, frame in frames.items():
        typed = frame.astype({**TYPES, "step": int})
        reached = typed if step is None else typed[typed["step"] <= step]
        final = counted(reached, ends.assign(lost=ends["lost"].where(ends["lost"].isna(), -1)))
        final = final.sort_values("step", kind="stable").drop_duplicates(TRIAL, keep="last")
        ended = final[TRIAL].merge(ends, how="left", on=TRIAL)["ended"].to_numpy()
        here = np.fmin(final["step"].to_numpy(float), ended)
        last[name] = final.drop(columns="step").assign(**{f"{name}_step": here})
    trials = ends.assign(diverged=ends["how"] == "diverged", ended=False)
    return _together(last, trials, ends[["run"]].drop_duplicates()).drop(columns="ended").set_index("run")


def _together(frames: Mapping[str, pd.DataFrame], trials: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers and counts for each of `rows`, over the trials of which all is known that is known of any."""
    keys = list(rows.columns)
    first, *others = frames.values()
    joined = first
    for frame in others:
        joined = joined.merge(frame, how="outer", on=[*keys, "replica"])
    known = joined[list(frames)].notna()
    of_any = known.groupby([joined[key] for key in keys]).transform("any")
    used = (known | ~of_any).all(axis=1) & known.any(axis=1)
    numbers = [name for name in joined.columns if name not in (*keys, "replica") and not name.endswith(WORDS)]
    every, of_used = joined.assign(used=used, failed=~used).groupby(keys), joined[used].groupby(keys)
    # a mean over fewer would be one over other trials
    means = of_used[numbers].mean().where(of_used[numbers].count().eq(of_used.size(), axis=0))
    words = {name: of_used[name].agg(listed) for name in joined.columns if name.endswith("probe")}
    words |= {name: of_used[name].min() for name in joined.columns if name.endswith("samples")}
    words |= {name: of_used[name].all() for name in joined.columns if name.endswith("converged")}
    words |= {name: every[name].first() for name in joined.columns if name.endswith("failure")}
    counts = trials.assign(trials=1).groupby(keys)[["trials", "diverged", "ended"]].sum()
    counts = counts.join(every[["used", "failed"]].sum())
    found = rows.merge(
        pd.concat([means, pd.DataFrame(words, index=counts.index), counts], axis=1).reset_index(), how="left", on=keys
    )
    return (
        found.astype(dict.fromkeys(COUNTS, float)).fillna(dict.fromkeys(COUNTS, 0)).astype(dict.fromkeys(COUNTS, int))
    )


def listed(values: pd.Series[Any]) -> str | None:
    """The different values in their order, in one text."""
    return ", ".join(dict.fromkeys(word for value in values.dropna() for word in str(value).split(", "))) or None


def shown(row: Mapping[Hashable, Any], numbers: Sequence[str]) -> Row:
    """A row of `by_step` or `at_end` for a report: the counts, the numbers, and which probe and samples they are of."""
    counts = {name: int(row[name]) if pd.notna(row[name]) else None for name in COUNTS if name in row}
    samples = {
        name: int(row[name]) if pd.notna(row[name]) else None for name in ("lambda_max_samples", "trace_samples")
    }
    return {
        **counts,
        **{name: plain(row[name]) for name in numbers},
        "lambda_max_probe": plain(row["lambda_max_probe"]),
        "lambda_max_samples": samples["lambda_max_samples"],
        "trace_probe": plain(row["trace_probe"]),
        "trace_samples": samples["trace_samples"],
    }
