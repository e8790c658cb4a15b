"""The runs named on a command line, as data: all that a report knows. Nothing here needs torch.

Runs stand in the order of their settings, numbers by size, so that a report never depends on how folders sort (1024
before 16). Views (`evaluations`, `top_eigenvalues`, `traces`) have one row per run and step and average the replicas of
a run.
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
from lossgeo.errors import NothingToReport, RunError
from lossgeo.folders import MANIFEST, RECIPE, run_folders

try:
    from yaml import CSafeLoader as Loader  # ten times faster, which 1,000 recipes feel
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]  # the same interface

WHOLE = "*"  # the group of all parameters, as the tables name it
# columns that the views below ask for, whichever table it is and whether or not a run has it
KEYS = ("run", "replica", "step", "probe", "operator", "parameters", "failure")
SELECTED = (*KEYS, "end", "rank", "eigenvalue", "value", "low", "high", "converged")


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

    def evaluations(self) -> pd.DataFrame:
        """run, step, {train,test}_{loss,accuracy}: the whole-set evaluations, NaN where a split was not evaluated."""
        rows = self.table("evaluations").reindex(columns=["run", "step", "split", "loss", "accuracy"])
        rows = rows.astype({"loss": float, "accuracy": float})  # a column of nulls has no type of its own
        means = rows.groupby(["split", "run", "step"], sort=False)[["loss", "accuracy"]].mean()
        splits = {split: means[means.index.get_level_values("split") == split] for split in ("train", "test")}
        wide = [part.droplevel("split").add_prefix(f"{split}_") for split, part in splits.items()]
        return pd.concat(wide, axis=1).reset_index()

    def choices(self, operator: str, parameters: str | None = WHOLE, table: str = "eigenvalues") -> list[str]:
        """The probes to choose from: those that measured the operator in a run where another probe did too."""
        rows = self.measured(table, operator, parameters)
        several = rows.groupby(["run", "parameters"])["probe"].transform("nunique") > 1
        return [str(probe) for probe in rows.loc[several, "probe"].unique()]

    def top_eigenvalues(self, operator: str, probe: str | None = None, parameters: str = WHOLE) -> pd.DataFrame:
        """run, step, lambda_max with its bracket over data, converged, failure: the largest eigenvalue by one probe.

        The probe is a run's first, if not named. A measurement that failed is a row too: lambda_max is NaN and
        `failure` its reason. lambda_max_low and lambda_max_high are NaN where all the data were measured.
        """
        rows = one_probe(self.measured("eigenvalues", operator, parameters), probe)
        rows = rows[((rows["end"] == "top") & (rows["rank"] == 0)) | rows["failure"].notna()]
        numbers = {"eigenvalue": "lambda_max", "low": "lambda_max_low", "high": "lambda_max_high"}
        rows = rows.rename(columns=numbers).astype(dict.fromkeys(numbers.values(), float))
        rows = rows.assign(converged=rows["converged"].eq(True))
        by_step = rows.groupby(["run", "step"], sort=False)
        means = dict.fromkeys(numbers.values(), "mean")
        return by_step.agg({**means, "converged": "all", "failure": "first"}).reset_index()

    def traces(self, operator: str, parameters: str = WHOLE) -> pd.DataFrame:
        """run, step, trace, trace_low, trace_high: the trace by the first probe of each run that measured it."""
        rows = one_probe(self.measured("trace", operator, parameters), None)
        numbers = {"value": "trace", "low": "trace_low", "high": "trace_high"}
        rows = rows.rename(columns=numbers).astype(dict.fromkeys(numbers.values(), float)).dropna(subset="trace")
        return rows.groupby(["run", "step"], sort=False)[list(numbers.values())].mean().reset_index()

    def measured(self, table: str, operator: str, parameters: str | None) -> pd.DataFrame:
        """A table's rows of one operator on one group of parameters, or on every group that it was measured on."""
        rows = self.table(table)
        rows = rows.reindex(columns=[*rows.columns, *(column for column in SELECTED if column not in rows.columns)])
        whole = rows["parameters"].isna() & rows["operator"].notna()  # written before blocks could be measured
        rows = rows.assign(parameters=rows["parameters"].mask(whole, WHOLE))
        # a failed row does not know what it measured; its probe does, if it succeeded anywhere, and else it may be this
        known = rows.dropna(subset="operator").drop_duplicates(["probe", "parameters"])
        operators = known.drop_duplicates("probe").set_index("probe")["operator"]
        rows = rows.assign(operator=rows["operator"].fillna(rows["probe"].map(operators)).fillna(operator))
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


def one_probe(rows: pd.DataFrame, probe: str | None) -> pd.DataFrame:
    """The rows of one probe, by default each run's first; two (other samples or tolerances) are never averaged."""
    first = rows.groupby(["run", "parameters"])["probe"].transform("first") if probe is None else probe
    return rows[rows["probe"] == first]


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
