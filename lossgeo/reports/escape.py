"""How long do trials stay at a saddle? Survival, its median beside theory, and how it depends on what was swept.

Two decisions a reader would question. Trials of runs that differ in the seed alone are pooled: a trial is the unit
here, and a run only holds some of them. And a trial that has not left counts, as one of which it is known that it takes
longer: a mean over those that have would be short by just the slow ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.laws import Law, law
from lossgeo.reports import Report, Row, Summary, label, plain
from lossgeo.study import Study, natural
from lossgeo.survival import Survival, logrank, survival

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POOLED = ("seed",)  # settings that make no arm of their own
COLUMNS = ["run", "saddle", "start_step", "escape_step", "censored", "last_step", "ended", "underflow"]


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
    def name(self) -> str:
        return ", ".join(f"{key} {label(value)}" for key, value in self.settings.items())


@final
class Escape(Report):
    """Escape from saddles: trials, the Kaplan-Meier median with its 95% interval, and what theory predicted.

    ratio: median over the median prediction. logrank_p: that the arm follows the same law as the first arm. Where one
    setting takes at least four values and all trials escape, the law T = a + b (x^e - 1) / e is fitted to the medians:
    exponent is e, 0 for a logarithm, and slope the b of the law that is named.

    Source: Kaplan & Meier 1958 and Mantel 1966 for censored times.
    """

    saddle: int | None = Field(default=None, ge=0, description="number of the saddle; null: each in rows of its own")

    def render(self, study: Study) -> Summary:
        """A row per swept setting other than the seed, and per saddle; without trials it has counts only."""
        arms = self._arms(study)
        keys = [key for key in study.swept if key not in POOLED]
        families = _families(arms, keys)
        laws = _laws(families)
        several = len({arm.saddle for arm in arms}) > 1
        rows = tuple(_row(arm, arms, several, laws.get(id(arm))) for arm in arms)
        return Summary(
            "Escape from saddles",
            rows,
            tuple(_notes(study, arms, rows)),
            (lambda: _draw(arms, rows, families, several)) if any(arm.curve for arm in arms) else None,
        )

    def _arms(self, study: Study) -> list[Arm]:
        every = study.table("escapes").reindex(columns=[*COLUMNS, "predicted_steps"])
        if self.saddle is not None:
            every = every[every["saddle"] == self.saddle]
        until = every["escape_step"].fillna(every["last_step"])
        every = every.assign(steps=(until - every["start_step"]).astype(float))
        keys = [key for key in study.swept if key not in POOLED]
        groups: dict[tuple[Any, ...], tuple[Row, list[str]]] = {}
        for run in study.runs:
            settings = {key: run.flat.get(key) for key in keys}
            groups.setdefault(tuple(map(natural, settings.values())), (settings, []))[1].append(run.id)
        arms = []
        for settings, runs in groups.values():
            mine = every[every["run"].isin(runs)]
            if not len(mine):
                arms.append(Arm(settings, self.saddle, mine, None))
            for saddle, trials in mine.groupby("saddle", sort=True):
                curve = survival(trials["steps"], trials["censored"].astype(bool))
                arms.append(Arm(settings, int(plain(saddle)), trials, curve))
        return arms


def _row(arm: Arm, arms: list[Arm], several: bool, fitted: Law | None) -> Row:
    predicted = arm.trials["predicted_steps"].astype(float)
    prediction = float(predicted.median()) if predicted.notna().any() else None
    first = next(other for other in arms if other.saddle == arm.saddle)
    curve, ended = arm.curve, arm.trials["ended"]
    return {
        **arm.settings,
        **({"saddle": arm.saddle} if several else {}),
        "trials": len(arm.trials),
        "escaped": int((~arm.censored).sum()),
        "censored": int(arm.censored.sum()),
        "diverged": int((ended == "diverged").sum()),
        "underflow": int(arm.trials["underflow"].sum()),
        "median_steps": curve.median if curve else None,
        "low": curve.median_low if curve else None,
        "high": curve.median_high if curve else None,
        "predicted_steps": prediction,
        "ratio": curve.median / prediction if curve and curve.median is not None and prediction else None,
        "logrank_p": None if arm is first or not (curve and first.curve) else logrank(first.sample, arm.sample),
        "law": fitted.name if fitted else None,
        "exponent": fitted.exponent if fitted else None,
        "exponent_low": fitted.exponent_low if fitted else None,
        "exponent_high": fitted.exponent_high if fitted else None,
        "slope": fitted.slope if fitted else None,
        "slope_low": fitted.slope_low if fitted else None,
        "slope_high": fitted.slope_high if fitted else None,
    }


@dataclass(frozen=True)
class Family:
    """Arms at one saddle that differ in one number alone."""

    key: str
    name: str  # what sets it apart from the other families
    arms: list[Arm]

    @property
    def values(self) -> list[float]:
        return [float(arm.settings[self.key]) for arm in self.arms]


def _families(arms: list[Arm], keys: list[str]) -> list[Family]:
    """Every way to see arms as families, by each of the swept numbers."""
    families = []
    for key in (key for key in keys if all(_is_number(arm.settings[key]) for arm in arms)):
        members: dict[tuple[Any, ...], list[Arm]] = {}
        for arm in arms:
            rest = tuple(natural(value) for other, value in arm.settings.items() if other != key)
            members.setdefault((natural(arm.saddle), *rest), []).append(arm)
        families += [Family(key, name, mine) for name, mine in zip(_names(members), members.values(), strict=True)]
    return families


def _names(members: dict[tuple[Any, ...], list[Arm]]) -> list[str]:
    """What sets families apart: the first settings that do, and no more."""
    firsts = [{**mine[0].settings, "saddle": mine[0].saddle} for mine in members.values()]
    words: list[tuple[str, ...]] = [() for _ in firsts]
    for key in firsts[0]:
        longer = [(*word, f"{key} {label(first[key])}") for word, first in zip(words, firsts, strict=True)]
        if len(set(longer)) > len(set(words)):
            words = longer
    return [", ".join(word) for word in words]


def _laws(families: list[Family]) -> dict[int, Law]:
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


def _notes(study: Study, arms: list[Arm], rows: tuple[Row, ...]) -> Iterator[str]:
    without = len(study.runs) - len({run for arm in arms for run in arm.trials["run"]})
    if without:
        yield f"{without} of {len(study.runs)} runs watched no saddle: `escape: {{distance: ...}}` in a recipe does."
    going = [run for run in study.runs if run.status not in ("done", "diverged")]
    if going:
        yield f"{len(going)} runs have not ended; their trials count as censored where they stand."
    stuck = sum(row["underflow"] for row in rows)
    if stuck:
        yield (
            f"{stuck} trials have nothing left along the way out: it fell below the smallest number of the precision,"
            " so that they would never leave, whatever theory says."
        )
    if any(row["trials"] and row["median_steps"] is None for row in rows):
        yield "Where fewer than half of the trials escaped there is no median: raise `steps`."
    if any(row["exponent"] is not None for row in rows):
        yield "exponent: of the swept number in T = a + b (x^e - 1) / e; slope: b of T = a + b ln x, or of a + b x^k."


def _draw(arms: list[Arm], rows: tuple[Row, ...], families: list[Family], several: bool) -> Figure:
    """Survival curves with their intervals; and medians against the swept number of most values, theory dashed."""
    from matplotlib.lines import Line2D

    from lossgeo.reports import _figure

    shown = [(arm, arm.curve, row) for arm, row in zip(arms, rows, strict=True) if arm.curve is not None]
    names = [arm.name + (f", saddle {arm.saddle}" if several else "") for arm, _, _ in shown]
    longest = max(families, key=lambda family: len(family.arms), default=None)
    panels = ["share of trials still there"]
    if longest is not None and len(longest.arms) > 1:
        panels.append("median steps until they leave")
    figure, axes = _figure.panels(panels, _small_print(rows))
    axis, colors = axes[0], _figure.colors(names)
    for (_, curve, row), color in zip(shown, colors, strict=True):
        times = np.concatenate([[0.5], np.maximum(curve.times, 0.5)])
        alive, low, high = (np.concatenate([[1.0], part]) for part in (curve.alive, curve.low, curve.high))
        axis.step(times, alive, where="post", color=color, linewidth=1.5)
        axis.fill_between(times, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        if row["predicted_steps"] and len(panels) == 1:
            axis.axvline(row["predicted_steps"], color=color, linestyle="--", linewidth=0.9)
    axis.set_xscale("log")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("steps", fontsize=9, color=_figure.INK)
    if longest is not None and len(panels) > 1:
        drawn = [family for family in families if family.key == longest.key]
        of_arm = {id(arm): row for arm, row in zip(arms, rows, strict=True)}
        paints = _figure.colors([family.name for family in drawn])
        for family, paint in zip(drawn, paints, strict=True):
            _draw_medians(axes[1], family, [of_arm[id(arm)] for arm in family.arms], paint)
        at = sorted({value for family in drawn for value in family.values})
        if at[0] > 0:
            _figure.marked_log_x(axes[1], at, min(b / a for a, b in pairwise(at)), [label(value) for value in at])
        axes[1].set_yscale("log")
        axes[1].set_xlabel(longest.key, fontsize=9, color=_figure.INK)
        if 1 < len(drawn) <= _figure.READABLE:
            _figure.legend(figure, [Line2D([], [], color=c) for c in paints], [family.name for family in drawn])
    elif 1 < len(shown) <= _figure.READABLE:
        _figure.legend(figure, [Line2D([], [], color=color) for color in colors], names)
    return figure


def _draw_medians(axis: Axes, family: Family, rows: list[Row], color: Any) -> None:
    for key, style in (("median_steps", "o"), ("predicted_steps", "--")):
        points = [(value, row[key]) for value, row in zip(family.values, rows, strict=True) if row[key]]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=color, linewidth=1.0, markersize=5)
    for value, row in zip(family.values, rows, strict=True):
        if row["low"] is not None and row["high"] is not None:
            axis.vlines(value, row["low"], row["high"], color=color, linewidth=1.2)


def _small_print(rows: tuple[Row, ...]) -> str:
    counts = sorted({row["trials"] for row in rows})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    words = f"Kaplan-Meier, n = {n} trials a curve, with 95% intervals"
    return f"{words}; dashed: predicted" if any(row["predicted_steps"] for row in rows) else words
