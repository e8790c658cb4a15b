"""Where do trials end, and how far apart? Last losses of runs and trials, by what was swept.

The unit is a trial, whether it has a run of its own or shares one. A trial that diverged counts but is left out of the
means: its last loss is where somebody happened to look. One whose run has not ended is at no end yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd

from lossgeo.reports import Report, Summary
from lossgeo.reports.analysis.arms import settings_of
from lossgeo.reports.analysis.intervals import Estimate, correlation, mean, share, spread_ratio
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.analysis.trials import TRIAL
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

MEANS = {"train": "train_loss", "test": "test_loss", "accuracy": "test_accuracy"}


@final
class Endings(Report):
    """The last training and test loss of every trial: mean, standard deviation over trials, and their correlation.

    fell_share: of the trials that have ended, those whose training loss did so below where it began, and was not driven
    beyond a limit; all means are over these. diverged: trials that were. unfinished: those of runs that have not ended.
    spread: standard deviation over trials of the test loss, or of the training loss where there is no test set.
    spread_ratio: over that of the first row. With 95% intervals, but for the first row over itself.

    Source: Choromanska et al. 2015 for losses that concentrate as networks grow.
    """

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than seeds."""
        ends = _ends(study)
        arms = [(settings, ends[ends["run"].isin(runs)]) for settings, runs in settings_of(study)]
        first = _losses(arms[0][1]) if arms else np.empty(0)
        rows = tuple({**settings, **_numbers(found, first)} for settings, found in arms)
        drawn = [(settings, _losses(found)) for settings, found in arms if len(_losses(found))]

        def draw() -> Figure:
            from lossgeo.reports.figures import endings

            return endings.draw(drawn)

        return Summary("Where trials end", rows, tuple(_notes(study, ends)), draw if drawn else None)


def _ends(study: Study) -> pd.DataFrame:
    """One row a trial that was evaluated or diverged: run, replica, train, test, accuracy, how, fell."""
    every = study.table("evaluations").reindex(columns=["run", "replica", "step", "split", "loss", "accuracy"])
    every = every.astype({"loss": float, "accuracy": float}).sort_values("step", kind="stable")
    train, test = (every[every["split"] == split].groupby(TRIAL) for split in ("train", "test"))
    # pandas passes over NaN unless told not to, and a trial that ended at NaN would count with its loss before
    begun, train_loss = (loss(skipna=False) for loss in (train["loss"].first, train["loss"].last))
    last = test[["loss", "accuracy"]].last(skipna=False)
    ends = pd.DataFrame({"train": train_loss, "test": last["loss"], "accuracy": last["accuracy"], "begun": begun})
    ends = study.trials[[*TRIAL, "how"]].merge(ends.reset_index(), how="left", on=TRIAL, indicator="evaluated")
    ends = ends[(ends["evaluated"] == "both") | (ends["how"] == "diverged")]
    tested = ends["run"].isin(every.loc[every["split"] == "test", "run"])
    whole = np.isfinite(ends["train"]) & (np.isfinite(ends["test"]) | ~tested)
    ended = ~ends["how"].isin(["diverged", "going"])
    return ends.assign(fell=ended & whole & (ends["train"] < ends["begun"]))


def _losses(found: pd.DataFrame) -> np.ndarray:
    """The last losses of trials that fell: on the test set, or on the training set where there is no other."""
    fell = found[found["fell"]]
    values: np.ndarray = (fell["test"] if fell["test"].notna().any() else fell["train"]).to_numpy()
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _numbers(found: pd.DataFrame, first: np.ndarray) -> Row:
    fell, losses = found[found["fell"]], _losses(found)
    unfinished = int((found["how"] == "going").sum())
    return {
        "trials": len(found),
        "used": len(fell),
        "diverged": int((found["how"] == "diverged").sum()),
        "unfinished": unfinished,
        **share(len(fell), len(found) - unfinished).columns("fell_share"),
        **{name: value for column, word in MEANS.items() for name, value in _mean(fell[column]).columns(word).items()},
        "spread": float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
        **spread_ratio(losses, first).columns("spread_ratio"),
        **correlation(fell["train"].to_numpy(), fell["test"].to_numpy()).columns("correlation"),
    }


def _mean(values: pd.Series[float]) -> Estimate:
    """The mean where all trials of the row have the number: over fewer it would be one of others."""
    return mean(values.tolist()) if values.notna().all() else Estimate()


def _notes(study: Study, ends: pd.DataFrame) -> Iterator[str]:
    without = len(study.runs) - ends["run"].nunique()
    if without:
        yield f"{without} of {len(study.runs)} runs evaluated nothing: see `evaluate` in their recipes."
    going = [run for run in study.runs if run.status not in ("done", "diverged")]
    if going:
        yield f"{len(going)} runs have not ended; their trials are counted, and left out of shares and means."
    diverged = int((ends["how"] == "diverged").sum())
    if diverged:
        yield f"{diverged} trials diverged: they did not fall, wherever they were last evaluated."
    stayed = int((~ends["fell"] & ~ends["how"].isin(["diverged", "going"])).sum())
    if stayed:
        yield f"{stayed} trials did not end below where they began, and are left out of the means."
