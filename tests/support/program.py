"""The real program, and runs trained in this process, as the tests of everything around training need them.

The program takes seconds to start, so tests share what one start can show, and train in this process where the boundary
between processes is not the point.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file

from lossgeo.components.finding import used_files
from lossgeo.recipes.documents import read_document
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.resuming import data_sha256
from lossgeo.runs.run import Run
from lossgeo.runs.training import Progress, train
from tests.support.mortal import die_with_the_parent, mortal

TIMES = ("seconds", "gradient_seconds")  # columns that differ between two equal runs
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "mlp", "hidden": [8]},
    "dataset": "digits",
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "batch_size": 64,
    "steps": 60,
    "threads": 1,
    "device": "cpu",
    "evaluate": {"every": 20},
    "checkpoint": {"every": 20},
}

# what `train` says of its data on standard error
SAID = "tiny: inputs 8 x 8, 1 channel; 10 classes; 1,438 train, 359 test\n"
# five trials that leave a saddle of a surface
SADDLE: dict[str, Any] = {
    "name": "saddle",
    "surface": {"name": "strict_saddle", "spectrum": [1.0, 0.3, -0.2]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "start": {"at": "saddle", "offset": 1e-6},
    "escape": {"distance": 1.0},
    "replicas": 5,
    "steps": 2000,
    "threads": 1,
}
# three trials of a network
DIGITS: dict[str, Any] = {
    "name": "digits",
    "model": {"name": "mlp", "hidden": [8]},
    "dataset": {"name": "digits", "train": 100, "test": 20},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "batch_size": 16,
    "steps": 30,
    "replicas": 3,
    "threads": 1,
}

EIGENVALUES = {"name": "eigenvalues", "top": 2, "bottom": 1, "samples": 200, "budget": 40}
TRACE = {"name": "trace", "vectors": 4, "samples": 200}


# --- the program -----------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    """The program, which does not outlive the process that starts it."""
    return mortal(sys.executable, "-m", "lossgeo", *arguments)


def lossgeo(*arguments: object, cwd: Path, stdin: str | None = None, timeout: float = 120, **environment: str) -> Any:
    """Run the program to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=ENVIRONMENT | environment,
        check=False,
    )


def start(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the program in a process group of its own and go on; its workers end when it does."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command(*arguments), cwd=cwd, env=ENVIRONMENT, text=True, start_new_session=True, **pipes)


def shell(script: str, cwd: Path, timeout: float = 120) -> Any:
    """Run a bash script in which `lossgeo` is the program; its last lines may print ${PIPESTATUS[@]}."""
    # an alias and no function: bash would run that in a process of its own, which would outlive the other
    whole = f"shopt -s expand_aliases\nalias lossgeo={shlex.quote(shlex.join(command()))}\n{script}"
    bash = mortal("bash", "-c", whole)
    return subprocess.run(bash, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- runs ------------------------------------------------------------------------------------------------------------


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe with some keys changed; None takes a key out."""
    return {key: value for key, value in (base | changes).items() if value is not None}


def written(folder: Path, file: str = "tiny.yaml", **changes: Any) -> Path:
    """The tiny recipe as a file."""
    path = folder / file
    path.write_text(yaml.safe_dump(changed(RECIPE, **changes), sort_keys=False))
    return path


def runs(out: Path, use: Sequence[Path] = (), base: dict[str, Any] = RECIPE, **changes: Any) -> list[Run]:
    """The runs of the changed recipe, not trained yet."""
    search = used_files(use)
    document = read_document(yaml.safe_dump(changed(base, **changes)).encode(), "test")
    return [Run.under(out, found) for found in resolve(document, search=search)]


def a_run(out: Path, use: Sequence[Path] = (), base: dict[str, Any] = RECIPE, **changes: Any) -> Run:
    (run,) = runs(out, use, base, **changes)
    return run


def news(run: Run, interrupt: Interrupt | None = None) -> list[Progress]:
    """Train in this process, as a command of its own; what was told on the way."""
    data_sha256.cache_clear()
    return list(train(run, Interrupt() if interrupt is None else interrupt))


def trained(out: Path, use: Sequence[Path] = (), base: dict[str, Any] = RECIPE, **changes: Any) -> Run:
    """The one run of the changed recipe, trained in this process."""
    run = a_run(out, use, base, **changes)
    news(run)
    return run


def train_in_child(out: Path, changes: dict[str, Any], die_at_write: int | None = None) -> None:
    """What a child process does: train, and if asked to, be killed when the n-th file is written but not renamed."""
    die_with_the_parent()
    if die_at_write is not None:
        rename, count = Path.replace, iter(range(1, 10**9))

        def replace(self: Path, target: Any) -> Path:
            if next(count) == die_at_write:
                with self.open("r+b") as part:  # and the file is torn, as after a crash
                    part.truncate(self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.replace = replace  # type: ignore[method-assign]  # in this process alone
    trained(out, **changes)


class After(Interrupt):
    """A signal that comes at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.signum = signal.SIGTERM
        return super().__bool__()


def manifest(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    return facts


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    # opened once: pyarrow's read_table opens a path twice, and may meet two versions of a table that is being written
    return pq.ParquetFile(pa.BufferReader((folder / f"{table}.parquet").read_bytes())).read().to_pylist()


def frame(run: Run, table: str) -> pd.DataFrame:
    """The same rows as pandas reads them."""
    return pd.read_parquet(run.folder / f"{table}.parquet")


def last_theta(run: Run) -> torch.Tensor:
    """theta (P,), or of all trials (R, P), at the last checkpoint."""
    return load_file(list(run.checkpoints().values())[-1])["theta"]


def tables(folder: Path, without: Sequence[str] = TIMES) -> dict[str, list[str]]:
    """Every table, every row and every column but the times; a row as text, so that a NaN equals itself."""
    return {
        file.stem: [repr({k: v for k, v in row.items() if k not in without}) for row in rows(folder, file.stem)]
        for file in sorted(folder.glob("*.parquet"))
    }


def checkpoints(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every tensor of every checkpoint; the order of a file's header is chance."""
    return {
        file.name: {name: t.numpy().tobytes() for name, t in load_file(file).items()}
        for file in sorted((folder / "checkpoints").iterdir())
    }


def content(folder: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, bytes]]]:
    """All that two equal runs share, to the last bit."""
    return tables(folder), checkpoints(folder)
