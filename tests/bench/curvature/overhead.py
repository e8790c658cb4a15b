"""What probing costs a training run: real recipes, trained by the command line, read back from their tables."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

EPOCH = 469  # steps of 128 over 60,000 examples
EPOCHS = {"b": 10, "c": 3}  # so that reading the data and choosing threads is small beside the steps
SAMPLED = {"samples": 1024, "every": EPOCH}
CHEAP = {**SAMPLED, "data_error": False}


def _three(when: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "eigenvalues", "top": 10, "bottom": 0, **when},
        {"name": "density", "steps": 30, "vectors": 1, **when},
        {"name": "trace", "vectors": 12, "deflate": 10, **when},
    ]


PROBES: dict[str, list[dict[str, Any]]] = {
    "top eigenvalue": [{"name": "eigenvalues", "top": 1, "bottom": 0, **SAMPLED}],
    "top eigenvalue, without its data error": [{"name": "eigenvalues", "top": 1, "bottom": 0, **CHEAP}],
    "the same, from the last vector": [{"name": "eigenvalues", "top": 1, "bottom": 0, "start": "warm", **CHEAP}],
    "top 10, density, trace": _three(SAMPLED),
    "top 10, density, trace, without their data errors": _three(CHEAP),
}
MODELS: dict[str, Any] = {
    "b": {"name": "mlp", "hidden": [512, 512], "activation": "relu"},
    "c": "workload_c",
}
COMPONENT = '''"""The network of workload c."""

from typing import final

from torch import nn

from lossgeo import Model


@final
class WorkloadC(Model):
    """Three convolutions and two linear layers."""

    def module(self, task):
        layers = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 128), nn.ReLU(), nn.Linear(128, 10))
'''


def overhead(workload: str, kind: str) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """Share of training time; for each probe seconds a measurement, these in gradients over its examples, products.

    The share is that of one measurement of each probe in every 469 steps, the mean over all of them, with the cold one
    at the start. Evaluations and checkpoints are left to the end, so that they do not make training look slower.
    """
    recipe = {
        "name": "overhead",
        "model": MODELS[workload],
        "dataset": "mnist5k",
        "loss": "cross_entropy",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "batch_size": 128,
        "steps": EPOCHS[workload] * EPOCH,
        "evaluate": {"at": ["last"]},
        "checkpoint": {"at": ["last"]},
        "probes": PROBES[kind],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "workload_c.py").write_text(COMPONENT)
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        command = [sys.executable, "-m", "lossgeo", "train", "recipe.yaml", "--out", "runs", "--use", "workload_c.py"]
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        run = path / done.stdout.strip()
        facts = json.loads((run / "run.json").read_text())
        tables = {probe["name"]: pd.read_parquet(run / f"{probe['name']}.parquet") for probe in PROBES[kind]}
    step = (facts["seconds"] - facts["probe_seconds"]) / recipe["steps"]
    costs = {}
    for name, table in tables.items():
        assert table["failure"].isna().all(), table["failure"].dropna().iloc[0]
        each = table.groupby("step")[["seconds", "gradient_seconds", "matvecs"]].first()
        gradients = (each["seconds"] / each["gradient_seconds"]).mean()
        costs[name] = each["seconds"].mean(), gradients, each["matvecs"].mean()
    return sum(seconds for seconds, _, _ in costs.values()) / (step * EPOCH), costs
