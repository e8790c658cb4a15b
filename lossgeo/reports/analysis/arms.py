"""Trials grouped for comparison: arms of equal settings at one saddle, and families of arms along a swept number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lossgeo.reports import label
from lossgeo.reports.analysis.intervals import FEWEST, TAIL, Estimate
from lossgeo.reports.analysis.power_laws import Law, law
from lossgeo.reports.analysis.study import Study, natural
from lossgeo.reports.analysis.survival import Survival
from lossgeo.tables import Row

RESAMPLES = 2_000


def settings_of(study: Study) -> list[tuple[Row, list[str]]]:
    """The settings of what was swept beside seeds, in the study's order, each with its runs.

    Runs that differ in a seed alone repeat the experiment, whatever it draws: trials, couplings or data.
    """
    keys = [key for key in study.swept if key.rpartition(".")[2] != "seed"]
    groups: dict[tuple[Any, ...], tuple[Row, list[str]]] = {}
    for run in study.runs:
        settings = {key: run.flat.get(key) for key in keys}
        groups.setdefault(tuple(map(natural, settings.values())), (settings, []))[1].append(run.id)
    return list(groups.values())


def told_apart(settings: Sequence[Row]) -> list[str]:
    """A name for each of several settings: the first keys that tell them apart, and no more."""
    words: list[tuple[str, ...]] = [() for _ in settings]
    for key in settings[0] if settings else ():
        longer = [
            word if row[key] is None else (*word, f"{key} {label(row[key])}")
            for word, row in zip(words, settings, strict=True)
        ]
        if len(set(longer)) > len(set(words)):
            words = longer
    return [", ".join(word) for word in words]


@dataclass(frozen=True)
class Arm:
    """Trials of equal settings at one saddle."""

    settings: Row
    saddle: int | None
    trials: pd.DataFrame
    curve: Survival | None  # None: there are no trials

    @property
    def times(self) -> np.ndarray:
        """Steps since the trial came to the saddle, until it left or was last looked at."""
        return self.trials["steps"].to_numpy(float)

    @property
    def censored(self) -> np.ndarray:
        return self.trials["censored"].to_numpy(bool)

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        return self.times, self.censored

    @property
    def prediction(self) -> float | None:
        """The median of the steps that theory predicts for the trials; None where there is none."""
        predicted = self.trials["predicted_steps"].astype(float)
        return float(predicted.median()) if predicted.notna().any() else None

    def stage_ratio(self, arms: list[Arm]) -> Estimate:
        """Median steps over those that the same trials took at the saddle before; too few trials have no interval.

        A censored trial counts as longer than any that left: the median is known while fewer than half are censored.
        The interval is of the percentile bootstrap over trials, both of whose times are resampled together; and each
        median is known to a step, since a stay begins and ends within one.
        """
        before = [arm for arm in arms if arm.settings == self.settings and arm.saddle == (self.saddle or 0) - 1]
        if not before:
            return Estimate()
        here = self.trials.assign(steps=np.where(self.censored, np.inf, self.times))
        there = before[0].trials
        steps = [trials.set_index(["run", "replica"])["steps"] for trials in (here, there)]
        both = pd.concat(steps, axis=1, join="inner").to_numpy(float)
        if not len(both) or (both[:, 1] <= 0).any() or np.isinf(both[:, 0]).mean() > 0.4:
            return Estimate()
        value = float(np.divide(*np.median(both, axis=0)))
        if len(both) < FEWEST["median"]:
            return Estimate(value)
        both = both[np.lexsort(both.T)]  # so that the interval does not depend on how the ids of runs sort
        stream = np.random.default_rng(0)
        medians = np.median(both[stream.integers(len(both), size=(RESAMPLES, len(both)))], axis=1)  # (RESAMPLES, 2)
        ratios = np.divide(*(medians + stream.triangular(-1, 0, 1, medians.shape)).T)
        low, high = np.percentile(ratios, [100 * TAIL, 100 * (1 - TAIL)])
        return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Family:
    """Arms at one saddle that differ in one number alone."""

    key: str
    name: str  # what sets it apart from the other families
    arms: list[Arm]

    @property
    def values(self) -> list[float]:
        return [float(arm.settings[self.key]) for arm in self.arms]


def families_of(arms: list[Arm]) -> list[Family]:
    """The families along each of the swept numbers."""
    keys = list(arms[0].settings)
    families = []
    # where every setting was watched at one saddle alone, that saddle's number splits no family
    several = len({(*arm.settings.values(), arm.saddle) for arm in arms}) > len(
        {(*arm.settings.values(),) for arm in arms}
    )
    for key in (key for key in keys if all(_is_number(arm.settings[key]) for arm in arms)):
        members: dict[tuple[Any, ...], list[Arm]] = {}
        for arm in arms:
            rest = tuple(natural(value) for other, value in arm.settings.items() if other != key)
            members.setdefault((natural(arm.saddle) if several else (0, 0.0, ""), *rest), []).append(arm)
        firsts = [{**mine[0].settings, "saddle": mine[0].saddle} for mine in members.values()]
        families += [Family(key, name, mine) for name, mine in zip(told_apart(firsts), members.values(), strict=True)]
    return families


def laws_of(families: list[Family]) -> dict[int, Law]:
    """The law of every family all of whose trials escaped, by the identity of its arms."""
    found: dict[int, Law] = {}
    for family in families:
        if any(arm.curve is None or arm.censored.any() for arm in family.arms):
            continue
        fitted = law(family.values, [arm.times for arm in family.arms])
        if fitted is not None:
            found |= {id(arm): fitted for arm in family.arms}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
