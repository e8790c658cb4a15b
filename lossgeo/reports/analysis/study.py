"""The runs named on a command line, as data: all that a report knows. Nothing here needs torch.

Runs stand in the order of their settings, numbers by size, so that a report never depends on how folders sort (1024
before 16). Views (`evaluations`, `top_eigenvalues`, `traces`, `curves`) have one row per run and step, `final` one per
run; they average the trials of a run that have not diverged, and show of several probes the best (measurements.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import yaml

from lossgeo import tables
from lossgeo.errors import NothingToReport, RunError, UsageError
from lossgeo.folders import MANIFEST, RECIPE, run_folders
from lossgeo.reports.analysis import measurements, trials
from lossgeo.reports.analysis.measurements import best, evaluations, top_eigenvalues, traces

try:
    from yaml import CSafeLoader as Loader  # ten times faster, which 1,000 recipes feel
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]  # the same interface

WHOLE = "*"  # the group of all parameters, as the tables name it
# columns that the views below ask for, whichever table it is and whether or not a run has it
KEYS = ("run", "replica", "step", "probe", "operator", "parameters", "failure")
SELECTED = (*KEYS, "end", "rank", "eigenvalue", "value", "low", "high", "converged", *measurements.SELECTED)


@dataclass(frozen=True)
class RunData:
    """One run folder: its recipe and its manifest (run.json) as plain data."""

    folder: Path
    id: str
    recipe: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def status(self) -> str:
        """running, done, diverged, failed or stopped."""
        return str(self.manifest["status"])

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The recipe under dotted keys, `optimizer.lr` or `model.hidden.0`, in the recipe's order."""
        return dict(_flat(self.recipe))


@dataclass(frozen=True)
class Study:
    """Runs to be compared, each once, in the order of their settings."""

    runs: tuple[RunData, ...]
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)  # read so far

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Study:
        """The runs in these folders and in any folder below them; copies of one run count once.

        Raises:
            UsageError: a path is not a folder.
            NothingToReport: no run anywhere.
            RunError: a recipe or a manifest cannot be read.
        """
        found: dict[str, RunData] = {}
        for folder in run_folders(paths):
            run = _read_run(folder)
            # of two copies of one run, the one that got further
            if run.id not in found or found[run.id].manifest.get("step", 0) < run.manifest.get("step", 0):
                found[run.id] = run
        if not found:
            raise NothingToReport(
                f"no run in {', '.join(map(str, paths)) or 'nothing'}: `lossgeo train` prints its folders"
            )
        swept = _swept(list(found.values()))

        def settings(run: RunData) -> tuple[Any, ...]:
            return (*(natural(run.flat.get(key)) for key in swept), run.folder)

        return cls(tuple(sorted(found.values(), key=settings)))

    @cached_property
    def swept(self) -> tuple[str, ...]:
        """The dotted keys whose value differs between the runs; `name` is among them when the recipes differ."""
        return _swept(self.runs)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """One row per run (the index), one column per swept key; None where a recipe has no such key."""
        rows = [[run.flat.get(key) for key in self.swept] for run in self.runs]
        index = pd.Index([run.id for run in self.runs], name="run")
        return pd.DataFrame(rows, index=index, columns=pd.Index(self.swept), dtype=object)

    def table(self, name: str) -> pd.DataFrame:
        """The tables `name` of all runs that have one, one below the other; without any, a frame without columns.

        Raises:
            RunError: a table cannot be read.
        """
        if name not in self._tables:
            files = [run.folder / f"{name}.parquet" for run in self.runs]
            parts = [tables.read(file) for file in files if file.exists()]
            whole = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
            self._tables[name] = whole.to_pandas(use_threads=False)
        return self._tables[name]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """How each trial of each run ended, as `trials.ends` says."""
        return trials.ends(self.runs, self.table("evaluations"), self.table("escapes"))

    def evaluations(self) -> pd.DataFrame:
        """run, step, {train,test}_{loss,accuracy}: the whole-set evaluations, NaN where a split was not evaluated."""
        return self._averaged({"train_loss": evaluations(self.table("evaluations"))})

    def top_eigenvalues(self, operator: str, probe: str | None = None, parameters: str = WHOLE) -> pd.DataFrame:
        """run, step, lambda_max with its interval, probe and samples, converged, failure: the largest eigenvalue.

        Where no trial's measurement succeeded, lambda_max is NaN and `failure` its reason. The interval is the bracket
        over data, or the solver's where all the data were measured.
        """
        return self._averaged({"lambda_max": self._top(operator, probe, parameters)})

    def traces(self, operator: str, parameters: str = WHOLE) -> pd.DataFrame:
        """run, step, trace with its interval, trace_probe, trace_samples."""
        found = self._averaged({"trace": traces(self.measured("trace", operator, parameters))})
        return found.dropna(subset="trace")

    def curves(self, operator: str, parameters: str = WHOLE, probe: str | None = None) -> pd.DataFrame:
        """What the three views have, of every run and step, over one set of trials: see `trials.by_step`."""
        return trials.by_step(self._numbers(operator, parameters, probe), self.trials)

    def final(
        self, operator: str, parameters: str = WHOLE, probe: str | None = None, step: int | None = None
    ) -> pd.DataFrame:
        """What the three views have of every run at its end, over one set of trials: see `trials.at_end`."""
        return trials.at_end(self._numbers(operator, parameters, probe), self.trials, step)

    def _averaged(self, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
        found = trials.by_step(frames, self.trials)
        return found[found["used"] + found["failed"] > 0].drop(columns=list(trials.COUNTS)).reset_index(drop=True)

    def _numbers(self, operator: str, parameters: str, probe: str | None) -> dict[str, pd.DataFrame]:
        probes = self.chosen(("eigenvalues", "trace"), operator, parameters, probe)
        return {
            "train_loss": evaluations(self.table("evaluations")),
            "lambda_max": self._top(operator, probes["eigenvalues"], parameters),
            "trace": traces(self.measured("trace", operator, parameters, probes["trace"])),
        }

    def _top(self, operator: str, probe: str | None, parameters: str) -> pd.DataFrame:
        sizes = {run.id: (run.manifest.get("data") or {}).get("train") for run in self.runs}
        return top_eigenvalues(self.measured("eigenvalues", operator, parameters, probe), sizes)

    def choices(self, operator: str, parameters: str | None = WHOLE, table: str = "eigenvalues") -> list[str]:
        """The probes to choose from: those that measured the operator in a run where another probe did too."""
        rows = self._rows(table, operator, parameters)
        several = rows.groupby(["run", "parameters"])["probe"].transform("nunique") > 1
        return [str(probe) for probe in rows.loc[several, "probe"].unique()]

    def measured(
        self, table: str, operator: str, parameters: str | None = WHOLE, probe: str | None = None
    ) -> pd.DataFrame:
        """A table's rows of one operator on one group of parameters, or on every group that it was measured on.

        Those of one probe, or by default the best of each step; without trials that had diverged.
        """
        rows = self._rows(table, operator, parameters)
        rows = best(rows, table) if probe is None else rows[rows["probe"] == probe]
        return trials.counted(rows, self.trials)

    def chosen(
        self, names: Sequence[str], operator: str, parameters: str | None, probe: str | None
    ) -> dict[str, str | None]:
        """The probe to read each of these tables by: the one that is asked for where it filled the table, else None.

        Raises:
            UsageError: it filled none.
        """
        there = {name: list(self._rows(name, operator, parameters)["probe"].unique()) for name in names}
        if probe is not None and not any(probe in probes for probes in there.values()):
            known = ", ".join(dict.fromkeys(str(one) for probes in there.values() for one in probes))
            did = f"; {known} did" if known else ""
            raise UsageError(f"probe: {probe!r} measured no {operator} of {parameters or 'any group'}{did}")
        return {name: probe if probe in probes else None for name, probes in there.items()}

    def _rows(self, table: str, operator: str, parameters: str | None) -> pd.DataFrame:
        """All rows of one operator on one group of parameters, or on every group that it was measured on."""
        rows = self.table(table)
        rows = rows.reindex(columns=[*rows.columns, *(column for column in SELECTED if column not in rows.columns)])
        whole = rows["parameters"].isna() & rows["operator"].notna()  # written before blocks could be measured
        rows = rows.assign(parameters=rows["parameters"].mask(whole, WHOLE))
        # a failed row does not know what it measured; its probe does, if it succeeded anywhere, and else it may be this
        known = rows.dropna(subset="operator").drop_duplicates(["probe", "parameters"])
        operators = known.drop_duplicates("probe").set_index("probe")["operator"]
        rows = rows.assign(
            operator=rows["operator"].astype(object).fillna(rows["probe"].map(operators)).fillna(operator)
        )
        rows = rows[rows["operator"] == operator]
        if parameters is not None:
            here = known.loc[known["parameters"] == parameters, "probe"]
            failed = rows["parameters"].isna() & (rows["probe"].isin(here) | ~rows["probe"].isin(known["probe"]))
            rows = rows[(rows["parameters"] == parameters) | failed]
        return rows.assign(parameters=rows["parameters"].fillna(parameters or WHOLE))


def last(rows: pd.DataFrame, step: int | Literal["last"] = "last") -> pd.DataFrame:
    """Each run's last row, or its last one at or before `step`; the run becomes the index."""
    reached = rows if step == "last" else rows[rows["step"] <= step]
    return reached.sort_values("step", kind="stable").groupby("run").tail(1).set_index("run")


def natural(value: Any) -> tuple[int, float, str]:
    """A sort key for settings of any type: numbers by size, then words, then what is missing."""
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def _read_run(folder: Path) -> RunData:
    manifest, recipe = folder / MANIFEST, folder / RECIPE
    try:
        facts = json.loads(manifest.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{manifest}: cannot be read ({error})") from error
    if not isinstance(facts, dict) or not {"run", "status"} <= facts.keys():
        raise RunError(f"{manifest}: is not a manifest that lossgeo wrote: it has no `run` or no `status`")
    try:
        asked = yaml.load(recipe.read_bytes(), Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{recipe}: cannot be read ({error})") from error
    if not isinstance(asked, dict):
        raise RunError(f"{recipe}: is not a recipe: a mapping of keys to values is missing")
    return RunData(folder, str(facts["run"]), asked, facts)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict | list):
        yield key, value
        return
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for name, member in members:
        yield from _flat(member, f"{key}.{name}" if key else str(name))


def _swept(runs: Sequence[RunData]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for run in runs for key in run.flat)
    # what a recipe claims is not a setting: two recipes that differ in nothing else ran the same thing
    keys = {key: None for key in keys if not key.startswith("claim.")}
    return tuple(key for key in keys if len({natural(run.flat.get(key)) for run in runs}) > 1)
