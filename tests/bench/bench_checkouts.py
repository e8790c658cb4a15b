"""Whether a change made the program slower: four trainings by two checkouts in turn, and the ratio of their times.

    python -m tests.bench.bench_checkouts OLD_CHECKOUT [NEW_CHECKOUT] [--repeats 7]

The times are those that run.json gives for training and for probes, so that importing torch does not count. Each pair
of runs stands back to back, in an order that alternates; the ratio is the median over pairs, new over old.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

NETWORK: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [64, 64]},
    "dataset": "digits",
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "batch_size": 32,
}
RARELY = {"log": {"at": ["last"]}, "evaluate": {"at": ["last"]}, "checkpoint": {"at": ["last"]}}
WORKLOADS: dict[str, dict[str, Any]] = {
    "steps of a small network": NETWORK | RARELY | {"steps": 20_000},
    "64 trials of it": NETWORK | RARELY | {"steps": 400, "replicas": 64},
    "1,000 trials on a surface": {
        "surface": {"name": "octopus", "dimension": 5},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "start": {"at": "saddle", "offset": 1e-6},
        "escape": {"distance": 1.0},
        "replicas": 1000,
        "steps": 2000,
        **RARELY,
    },
    "eigenvalues, density, trace": NETWORK
    | RARELY
    | {
        "steps": 40,
        "probes": [
            {"name": "eigenvalues", "top": 10, "every": 10},
            {"name": "density", "steps": 40, "vectors": 2, "every": 10},
            {"name": "trace", "vectors": 16, "every": 10},
        ],
    },
}


def seconds(recipe: dict[str, Any], checkout: Path) -> float:
    """What run.json says that a training of the recipe took."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    text = yaml.safe_dump(recipe | {"threads": 1, "device": "cpu"})
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lossgeo", "train", "-", "--out", out, "-q"]
        subprocess.run(command, input=text, text=True, check=True, cwd=out, env=environment, capture_output=True)
        (manifest,) = Path(out).glob("*/*/run.json")
        return float(json.loads(manifest.read_bytes())["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=Path(__file__).parents[2])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    checkouts = [asked.old.resolve(), asked.new.resolve()]
    print(f"load {os.getloadavg()[0]:.2f}, medians of {asked.repeats} pairs")
    for name, recipe in WORKLOADS.items():
        pairs = []
        for number in range(asked.repeats):
            order = checkouts if number % 2 else checkouts[::-1]
            took = {checkout: seconds(recipe, checkout) for checkout in order}
            pairs.append((took[checkouts[0]], took[checkouts[1]]))
        old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        print(
            f"{name:28} old {old:.3f} s, new {new:.3f} s, new / old {statistics.median(ratios):.3f}"
            f" ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
