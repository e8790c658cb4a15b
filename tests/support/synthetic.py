"""Run folders with known truth, written without training: what the tests of studies, reports and formats read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.linalg import eigh_tridiagonal

from lossgeo.probes.critical_points import CriticalPoints
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.plateaus import Plateaus
from lossgeo.probes.trace import Trace
from lossgeo.runs.columns import ESCAPES, EVALUATIONS, STEPS
from lossgeo.tables import Row, Table

COLUMNS = {
    "steps": STEPS,
    "evaluations": EVALUATIONS,
    "escapes": ESCAPES,
    "critical_points": CriticalPoints.table(),
    "eigenvalues": Eigenvalues.table(),
    "trace": Trace.table(),
    "plateaus": Plateaus.table(),
    "density": Density.table(),
}


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


def curvature(step: int, probe: str, /, **more: Any) -> Row:
    """What the rows of all probes of an operator share; `more` may name another probe."""
    return {
        "step": step,
        "probe": probe,
        "seconds": 0.1,
        "operator": "hessian",
        "parameters": "*",
        "size": 1000,
        "samples": 1000,
        "batch_norm": "eval",
        "precision": "float64",
        "graph": "kept",
        "matvecs": 20,
        "gradient_seconds": 0.005,
        **more,
    }


def eigenvalue(step: int, value: float | None, **more: Any) -> Row:
    """A row of the largest Hessian eigenvalue."""
    known = {"end": "top", "rank": 0, "eigenvalue": value, "residual": 1e-4, "bound": 1e-6}
    return curvature(step, "eigenvalues", **{"converged": value is not None, **known, **more})


def eigenvalues(step: int, spectrum: np.ndarray, top: int, bottom: int = 1, **more: Any) -> list[Row]:
    """The ends of a spectrum, as the probe finds them."""
    up, down = np.sort(spectrum)[::-1][:top].tolist(), np.sort(spectrum)[:bottom].tolist()
    more = {"size": len(spectrum), **more}
    ends = [("top", rank, value) for rank, value in enumerate(up)]
    ends += [("bottom", rank, value) for rank, value in enumerate(down)]
    return [eigenvalue(step, value, end=end, rank=rank, **more) for end, rank, value in ends]


def trace(step: int, value: float, squares: float, stderr: float = 0.1, **more: Any) -> Row:
    """A row of a trace, with a stderr of its own and one of 1% for the squares."""
    numbers = {"method": "hutchinson", "value": value, "stderr": stderr, "converged": True}
    ends = {"low": value - 1.96 * stderr, "high": value + 1.96 * stderr}
    ends |= {"squares": squares, "squares_stderr": squares / 100}
    ends |= {"squares_low": 0.98 * squares, "squares_high": 1.02 * squares}
    return curvature(step, "trace", **{**numbers, **ends, **more})


def density(
    step: int, spectrum: np.ndarray, vectors: int = 4, steps: int = 40, deflate: int = 10, **more: Any
) -> list[Row]:
    """A spectrum as the probe measures it: Lanczos from random vectors orthogonal to the largest eigenvectors."""
    size, seed = len(spectrum), more.pop("seed", 0)
    more = {"part": 0, "size": size, **more}
    known = np.sort(spectrum)[size - deflate :]
    rest = np.sort(spectrum)[: size - deflate]
    rows = []
    for vector in range(vectors):
        drawn = np.random.default_rng([seed, step, more["part"], vector]).standard_normal(len(rest))
        nodes, weights = gauss(rest, drawn, steps)
        shares = [(node, 1 / size, True) for node in known.tolist()]
        shares += zip(nodes.tolist(), (weights * len(rest) / size).tolist(), [False] * len(nodes), strict=True)
        rows += [
            curvature(step, "density", vector=vector, node=node, weight=weight, known=taken, **more)
            for node, weight, taken in shares
        ]
    return rows


def gauss(spectrum: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights after so many Lanczos steps on a diagonal matrix; fewer where the space is invariant."""
    if not len(spectrum):
        return np.array([]), np.array([])
    basis = [start / np.linalg.norm(start)]
    alpha: list[float] = []
    beta: list[float] = []
    while True:
        rest = spectrum * basis[-1]
        alpha.append(float(rest @ basis[-1]))
        for _ in range(2):
            rest = rest - np.array(basis).T @ (np.array(basis) @ rest)
        norm = float(np.linalg.norm(rest))
        if len(basis) == min(steps, len(spectrum)) or norm <= 1e-12 * np.abs(spectrum).max():
            break
        beta.append(norm)
        basis.append(rest / norm)
    nodes, directions = eigh_tridiagonal(alpha, beta)
    return nodes, directions[0] ** 2


def spectral(step: int, spectrum: Sequence[float] | np.ndarray, top: int = 25, **more: Any) -> dict[str, list[Row]]:
    """The three tables of a spectrum at one step."""
    whole = np.asarray(spectrum, dtype=float)
    return {
        "eigenvalues": eigenvalues(step, whole, min(top, len(whole)), min(2, len(whole)), **more),
        "trace": [trace(step, float(whole.sum()), float((whole**2).sum()), **{"size": len(whole), **more})],
        "density": density(step, whole, deflate=min(10, len(whole)), **more),
    }


def network(classes: int = 10, size: int = 600, seed: int = 0) -> np.ndarray:
    """Something like a classifier's Hessian: outliers, a bulk that decays over decades, zeros, a negative tail."""
    rng = np.random.default_rng(seed)
    outliers = np.geomspace(1.0, 4.0, classes)
    bulk = 10 ** rng.uniform(-5, -0.7, size // 2)
    negative = -(10 ** rng.uniform(-5, -1, size // 8))
    whole = np.concatenate([outliers, bulk, negative])
    return np.sort(np.concatenate([whole, np.zeros(size - len(whole))]))


def tables_of_a_run(
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
        "steps": [
            {"step": step, "loss": train_loss, "lr": lr, "threshold": 2 / lr, "threshold_of": "hessian"}
            for step in range(1, 200, 20)
        ],
        "evaluations": evaluations,
        "eigenvalues": [*top, *bottom],
        "trace": [trace(200, 5 * lambda_max, 2 * lambda_max**2)],
    }


def id_of(number: int) -> str:
    """A run id: eight hexadecimal digits."""
    return f"{number:08x}"
