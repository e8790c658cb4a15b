"""What did watching cost? Seconds, products and gradients of every probe, and how often it may run for a tenth more.

A measurement is one probe at one step, however many rows it left: a probe of every layer too. `lossgeo probe` measures
after training into the same tables; a note says how many of the seconds are its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from pydantic import Field

from lossgeo.reports import Report, Summary, plain
from lossgeo.reports.analysis.intervals import Estimate
from lossgeo.reports.analysis.study import WHOLE, RunData, Study
from lossgeo.reports.analysis.survival import survival
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

OTHER_TABLES = ("steps", "evaluations")  # of a run, that no probe fills
MEASUREMENT = ["run", "replica", "step", "probe"]
NUMBERS = ["seconds", "matvecs", "gradient_seconds"]
SHARED = ["operator", "parameters", "samples"]
CLOCK, MOMENT = 1.05, 0.1  # factor and seconds by which tables and the run's clock may differ for no reason at all
NAMED = 5  # probes in the note on `every`, after which the column has to do


@final
class Cost(Report):
    """Seconds, products and gradient equivalents of every probe, and its share of the run.

    seconds, matvecs, gradient_equivalents: medians over the measurements that succeeded, seconds with its 95% interval
    from six of them on. gradient_equivalents = seconds / gradient_seconds, the price of one gradient over
    the same examples. share: the probe's seconds over those of the whole run; overhead: over those without any probe.
    With

        overhead(every) = seconds / (every x step_seconds)

    `every` is the number of steps between two measurements at which they add `at_most` to the training.
    """

    at_most: float = Field(default=0.1, gt=0, le=100, description="overhead that column `every` allows each probe")

    def render(self, study: Study) -> Summary:
        """A row per run and probe; a run without any measurement keeps one row."""
        measurements = _measurements(study)
        rows: list[Row] = []
        for run in study.runs:
            mine = measurements[measurements["run"] == run.id]
            settings: Row = {"run": run.id, **dict(zip(study.swept, study.settings.loc[run.id], strict=True))}
            probes: list[Any] = list(dict.fromkeys(mine["probe"])) or [None]
            rows += [settings | self._row(run, probe, mine[mine["probe"] == probe]) for probe in probes]
        drawn = [row for row in rows if row["seconds"] is not None]

        def draw() -> Figure:
            from lossgeo.reports.figures import cost

            return cost.draw(drawn, _names(drawn))

        notes, nothing = tuple(self._notes(study, rows)), all(row["probe"] is None for row in rows)
        return Summary("Cost of the probes", tuple(rows), notes, draw if drawn else None, empty=nothing)

    def _row(self, run: RunData, probe: str | None, found: pd.DataFrame) -> Row:
        good = found[~found["failed"]]
        seconds, pace = good["seconds"].to_numpy(float), _step_seconds(run)
        typical = typical_of(seconds)
        total, whole = float(found["seconds"].sum()), run.manifest.get("seconds")
        equivalents = good["seconds"] / good["gradient_seconds"].where(good["gradient_seconds"] > 0)
        return {
            "probe": probe,
            **_what(found),
            "measurements": len(found),
            "failures": int(found["failed"].sum()),
            **typical.columns("seconds"),
            "matvecs": plain(good["matvecs"].median()),
            "gradient_seconds": plain(good["gradient_seconds"].median()),
            "gradient_equivalents": plain(equivalents.median()),
            "total_seconds": total if probe is not None else None,
            "share": total / whole if probe is not None and whole else None,
            "overhead": total / (pace * run.manifest["step"]) if probe is not None and pace else None,
            "step_seconds": pace,
            "every": math.ceil(typical.value / (self.at_most * pace)) if typical.value is not None and pace else None,
        }

    def _notes(self, study: Study, rows: list[Row]) -> Iterator[str]:
        without = sum(row["probe"] is None for row in rows)
        if without:
            yield f"{without} of {len(study.runs)} runs measured nothing."
        failed = sum(row["failures"] for row in rows)
        if failed:
            yield f"{failed} measurements failed; their seconds count in total_seconds and share, not in the medians."
        later = 0.0
        for run in study.runs:
            held = sum(float(row["total_seconds"] or 0.0) for row in rows if row["run"] == run.id)
            spent = run.manifest.get("probe_seconds")
            spent = held if spent is None else float(spent)
            later += held - spent if held > CLOCK * spent + MOMENT else 0.0
        if later:
            yield (
                f"Measurements of {later:.3g} s were not made in training but afterwards, by `lossgeo probe`; share and"
                " overhead count them with the others."
            )
        priced = [row for row in rows if row["every"] is not None]
        if priced:
            yield (
                "overhead(every) = seconds / (every x step_seconds); a training step includes its share of evaluations"
                f" and checkpoints. Column every keeps one probe's overhead at {self.at_most:.0%}."
            )
        if 0 < len(priced) <= NAMED and len(study.runs) == 1:
            listed = "; ".join(f"{_words(row)}: every: {row['every']}" for row in priced)
            yield f"For {self.at_most:.0%} overhead each: {listed}."


def typical_of(seconds: np.ndarray) -> Estimate:
    """The median with its interval, as that of a trial's steps; unknown of no measurement."""
    if not len(seconds):
        return Estimate()
    found = survival(seconds, np.zeros(len(seconds), dtype=bool), step=0.0).median
    return Estimate(float(np.median(seconds)), found.low, found.high)


def _step_seconds(run: RunData) -> float | None:
    """Seconds of one step of training without probes; evaluations and checkpoints are part of it."""
    facts = run.manifest
    steps = facts.get("step")
    if not steps or facts.get("seconds") is None:
        return None
    spent = float(facts["seconds"]) - float(facts.get("probe_seconds") or 0.0)
    return spent / int(steps) if spent > 0 else None


def _measurements(study: Study) -> pd.DataFrame:
    """One row a measurement, in the order of tables and steps."""
    names = {file.stem for run in study.runs for file in run.folder.glob("*.parquet")} - set(OTHER_TABLES)
    parts = [pd.DataFrame(columns=[*MEASUREMENT, "table", *NUMBERS, *SHARED, "failed"])]
    for name in sorted(names):
        rows = study.table(name)
        if not {"probe", "seconds"} <= set(rows.columns):
            continue  # a table that no probe filled
        rows = rows.reindex(columns=[*MEASUREMENT, *NUMBERS, *SHARED, "failure"])
        # seconds are those of the whole measurement, products those of one group of parameters
        rows = rows.astype(dict.fromkeys(NUMBERS, float)).drop_duplicates([*MEASUREMENT, "parameters"])
        by_measurement = rows.groupby(MEASUREMENT, sort=False)
        found = by_measurement[["seconds", "gradient_seconds"]].mean()
        found["matvecs"] = by_measurement["matvecs"].sum(min_count=1)
        found["failed"] = by_measurement["failure"].count() > 0
        found["operator"] = by_measurement["operator"].first()
        found["samples"] = by_measurement["samples"].max()
        groups = by_measurement["parameters"]
        found["parameters"] = groups.first().where(groups.nunique() < 2, groups.nunique().astype(str) + " groups")
        parts.append(found.reset_index().assign(table=name))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True).astype({"failed": bool})


def _what(found: pd.DataFrame) -> Row:
    """What a probe measures; of its last measurement, since a sample may have grown on the way."""
    columns = {"table": "measures", **dict(zip(SHARED, SHARED, strict=True))}
    known = {name: found[column].dropna().iloc[-1:].tolist() for column, name in columns.items()}
    return {name: plain(values[0]) if values else None for name, values in known.items()} | {
        "samples": int(known["samples"][0]) if known["samples"] else None
    }


def _words(row: Row) -> str:
    """A row's measurement in words: "trace of the hessian, layers.0.*, 256 examples"."""
    words = [row["measures"] + (f" of the {row['operator']}" if row["operator"] else "")]
    words += [row["parameters"]] if row["parameters"] not in (None, WHOLE) else []
    words += [f"{row['samples']:,} examples"] if row["samples"] is not None else []
    return ", ".join(words)


def _names(rows: list[Row]) -> dict[str, str]:
    """Every probe's measurement in words, followed by its key where two would read the same."""
    words = {row["probe"]: _words(row) for row in rows}
    alike = Counter(words.values())
    return {probe: text if alike[text] == 1 else f"{text} ({probe})" for probe, text in words.items()}
