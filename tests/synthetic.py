"""Run folders with known truth, written without training: what the tests of studies, reports and formats read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.resuming import EVALUATIONS, STEPS
from lossgeo.tables import Row, Table

COLUMNS = {"steps": STEPS, "evaluations": EVALUATIONS, "eigenvalues": Eigenvalues.table(), "trace": Trace.table()}


def recipe(**changes: Any) -> dict[str, Any]:
    """A resolved recipe; `optimizer={"lr": 0.2}` changes members of a mapping, other values replace."""
    plain: dict[str, Any] = {
        "name": "synthetic",
        "model": {"name": "mlp", "hidden": [8, 8]},
        "dataset": {"name": "digits"},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
        "batch_size": 16,
        "steps": 200,
        "seed": 0,
        "probes": [{"name": "eigenvalues", "operator": "hessian", "every": 100}],
    }
    for key, value in changes.items():
        plain[key] = {**plain[key], **value} if isinstance(value, dict) and key in plain else value
    return plain


def write_run(
    out: Path,
    run: str,
    asked: Mapping[str, Any],
    tables: Mapping[str, list[Row]] | None = None,
    **manifest: Any,
) -> Path:
    """One run folder; rows may leave out `run` and `replica`."""
    folder = out / str(asked["name"]) / f"slug-{run}"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(asked), sort_keys=False))
    facts = {
        "run": run,
        "recipe": asked["name"],
        "status": "done",
        "reason": None,
        "step": 200,
        "steps": 200,
        "seconds": 1.5,
        "probe_seconds": 0.5,
        "data": {"name": "digits", "train": 1000, "test": 797},
    }
    (folder / "run.json").write_text(json.dumps(facts | manifest))
    for name, rows in (tables or {}).items():
        table = Table(folder / f"{name}.parquet", COLUMNS[name])
        for row in rows:
            table.append({"run": run, "replica": 0, **row})
        table.flush()
    return folder


def eigenvalue(step: int, value: float | None, **more: Any) -> Row:
    """A row of the largest Hessian eigenvalue."""
    return {
        "step": step,
        "probe": "eigenvalues",
        "operator": "hessian",
        "end": "top",
        "rank": 0,
        "eigenvalue": value,
        "converged": value is not None,
        **more,
    }


def trained(
    lambda_max: float, *, train_loss: float = 0.1, accuracy: float | None = 0.95, lr: float = 0.1
) -> dict[str, list[Row]]:
    """The tables of a finished run: three evaluations and probes, ending at these numbers."""
    at = [(0, 23.0), (100, 3.0), (200, 1.0)]
    evaluations = [
        {
            "step": step,
            "split": split,
            "loss": train_loss * factor * extra,
            "accuracy": accuracy and accuracy / factor**0.5,
        }
        for step, factor in at
        for split, extra in (("train", 1.0), ("test", 1.3))
    ]
    top = [eigenvalue(step, lambda_max * (1 - 0.2 * (factor - 1) / 22)) for step, factor in at]
    bottom = [{**row, "end": "bottom", "eigenvalue": -0.1} for row in top]
    return {
        "steps": [{"step": step, "loss": train_loss, "lr": lr} for step in range(1, 200, 20)],
        "evaluations": evaluations,
        "eigenvalues": [*top, *bottom],
        "trace": [{"step": 200, "probe": "trace", "operator": "hessian", "value": 5 * lambda_max, "stderr": 0.1}],
    }


def id_of(number: int) -> str:
    """A run id: eight hexadecimal digits."""
    return f"{number:08x}"
