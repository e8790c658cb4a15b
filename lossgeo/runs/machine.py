"""What a result depends on beside the recipe: device, torch threads, versions, commit.

Two threads make a small model 1.4 times slower and a large one 1.5 times faster, so `threads: auto` measures: twenty
gradients with each count, on a scratch copy. The choice changes the last bits of every sum; it is recorded, and a
resumed run keeps it.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from importlib.metadata import version
from typing import Any, Literal

import torch

import lossgeo
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.task import Examples

TRIALS = 20
SECONDS = 1.0  # the most that one thread count may take, for models whose gradient is slow
GAIN = 0.95  # more threads must be this much faster to be worth it


def pick_device(name: str) -> torch.device:
    """The device behind `auto`, `cpu`, `cuda`, ...

    Raises:
        UsageError: this machine has none of that kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device.type]:
        raise UsageError(f"device {name}: this machine has none; use `device: auto` or --device cpu")
    return device


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(
    asked: int | Literal["auto"], workers: int, landscape: Landscape, theta: torch.Tensor, batch: Examples
) -> int:
    """The threads of a run: as asked; auto: this run's share of the cores, or the fastest count where it has all."""
    if asked != "auto":
        return int(asked)
    if workers > 1:
        return max(1, cores() // workers)
    if theta.ndim == 2:
        batch = Examples(*(whole.expand(len(theta), *whole.shape) for whole in batch))
    return fastest_threads(landscape, theta, batch)


def fastest_threads(landscape: Landscape, theta: torch.Tensor, batch: Examples) -> int:
    """The thread count, 1 or every core, with the shorter median gradient at theta, (P,) or (R, P)."""
    medians = {}
    with landscape.flat.buffers_kept():
        for count in {1, cores()}:
            torch.set_num_threads(count)
            times: list[float] = []
            while len(times) < TRIALS and sum(times) < SECONDS:
                begin = time.perf_counter()
                landscape.gradient(theta, batch)
                times.append(time.perf_counter() - begin)
            medians[count] = statistics.median(times)
    return cores() if medians[cores()] < GAIN * medians[1] else 1


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for run.json."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow")
    own = {"lossgeo": lossgeo.__version__, "python": platform.python_version()}
    return {
        "versions": own | {name: version(name) for name in packages},
        "git_commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit() -> str | None:
    """The git commit of the working directory, with + where the tree differs from it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
