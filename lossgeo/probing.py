"""Probes on the points that a run kept: the same measurements as during training, on its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from lossgeo.errors import RunError
from lossgeo.landscape import Memory
from lossgeo.machine import pick_device
from lossgeo.probes import Probe
from lossgeo.runs import Run
from lossgeo.training import Progress, restored

At = Literal["first", "last", "all"] | Sequence[int]


def probe(run: Run, probes: Sequence[Probe], at: At, device: str | None = None) -> Iterator[Progress]:
    """Measure `probes` on a run's checkpoints and add the rows to its tables; what is there already is not measured again.

    With the run's own device and thread count a value equals, bit for bit, the one that the same probe gives in training.

    Raises:
        RunError: the run is in use, has no checkpoint at such a step, or its data changed.
    """
    with run.locked():
        torch.set_num_threads(int(run.manifest().get("threads", 1)))
        landscape, data = run.recipe.landscape(pick_device(device or run.recipe.device))
        run.check_data(data.sha256)
        tables = {p.component_name(): run.table(p.component_name(), p.table()) for p in probes}
        there = {(row["probe"], row["step"]) for table in tables.values() for row in table.rows}
        for step in _chosen(list(run.checkpoints()), at, run):
            missing = [p for p in probes if (p.key(), step) not in there]
            if not missing:
                continue
            memories: dict[str, Memory] = {p.key(): {} for p in missing}
            point = restored(landscape, step, run.load(step), memories=memories)
            for p in missing:
                rows, _ = p.rows(landscape, point, memories[p.key()], run.recipe.seed)
                for row in rows:
                    tables[p.component_name()].append({"run": run.id} | row)
                tables[p.component_name()].flush()
                failed = next((row["failure"] for row in rows if row.get("failure")), None)
                note = f"{run.folder}: {p.component_name()} at step {step} failed: {failed}" if failed else None
                yield Progress(step, step, note=note)


def _chosen(steps: list[int], at: At, run: Run) -> Sequence[int]:
    if not steps:
        raise RunError(f"{run.folder}: has no checkpoint to measure on")
    match at:
        case "first":
            return steps[:1]
        case "last":
            return steps[-1:]
        case "all":
            return steps
        case _:
            return at
