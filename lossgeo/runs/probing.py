"""Probes on the points that a run kept: the same measurements as during training, on its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from lossgeo.errors import RunError, Stopped
from lossgeo.files import set_aside
from lossgeo.landscapes.landscape import Memory
from lossgeo.optimizers.schedules import Rates
from lossgeo.probes import Probe
from lossgeo.runs.building import landscape_and_data
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.machine import pick_device
from lossgeo.runs.measuring import Measuring
from lossgeo.runs.resuming import restore
from lossgeo.runs.run import FINISHED, Run, contained
from lossgeo.runs.training import Progress
from lossgeo.tables import Table, read

At = Literal["first", "last", "all"] | Sequence[int]


def probe(
    folder: Path, probes: Sequence[Probe], at: At, interrupt: Interrupt, device: str | None = None
) -> Iterator[Progress]:
    """Measure `probes` on a run's checkpoints and add the rows to its tables; what is there already stays as it is.

    With the run's own device and thread count a value equals, bit for bit, the one that the same probe gives in
    training. Progress counts measurements. One checkpoint that cannot be read leaves the others to be measured.

    Raises:
        UsageError: the folder cannot be written.
        RunError: the run is in use or was edited; it has no checkpoint at such a step, or one that cannot be read; its
            data changed; the disk is full.
        Stopped: a signal came; what was measured is kept.
    """
    run = Run.open(folder)
    probes = list({p.key(): p for p in probes}.values())  # asked for twice it is measured once
    with run.locked(), contained(run):
        torch.set_num_threads(1)  # the start as in training
        landscape, data = landscape_and_data(run.recipe, pick_device(device or run.recipe.device))
        torch.set_num_threads(int(run.manifest().get("threads", 1)))
        run.check_data(data.sha256)
        for p in probes:
            p.check(landscape)
        tables: dict[str, Table] = {}
        for p in probes:
            if p.table_name() not in tables:
                tables[p.table_name()], note = _opened(run, p)
                yield Progress(0, 1, note=note)
        final = max(run.checkpoints(), default=0) if run.manifest().get("status") in FINISHED else None
        memories: dict[str, Memory] = {p.key(): {} for p in probes}
        measuring = Measuring(run, landscape, probes, tables, memories)
        chosen = _chosen(list(run.checkpoints()), at, run)
        due = {step: missing for step in chosen if (missing := [p for p in probes if measuring.missing(p, step)])}
        rates = Rates(run.recipe.optimizer.lr, run.recipe.schedule, int(run.manifest()["steps"]))
        total, number = sum(map(len, due.values())), 0
        broken = []
        for step, missing in due.items():
            if interrupt:
                raise Stopped(interrupt.signum)
            try:
                point = restore(landscape, step, run.load(step), memories, run.recipe.optimizer, rates)
            except RunError as error:
                broken.append(str(error))
                continue
            point.last = step == final
            for done, note in enumerate(measuring.at(point, missing), start=1):
                for table in tables.values():
                    table.flush()
                number += 1
                yield Progress(number, total, note=note)
                if done < len(missing) and interrupt:
                    raise Stopped(interrupt.signum)
        yield from (Progress(total, total, note=note) for note in measuring.summary())
        if broken:
            raise RunError("; ".join(dict.fromkeys(broken)))


def _opened(run: Run, probe: Probe) -> tuple[Table, str | None]:
    """A probe's table; a torn one that training does not fill is set aside, with a sentence that says so."""
    name = probe.table_name()
    path = run.folder / f"{name}.parquet"
    note = None
    if path.exists() and name not in {p.table_name() for p in run.recipe.probes}:
        try:
            read(path)
        except RunError:
            note = f"{path} was torn and is kept as {set_aside(path, 'torn').name}; measure again what it held"
    return run.table(name, probe.table()), note


def _chosen(steps: list[int], at: At, run: Run) -> Sequence[int]:
    if not steps:
        raise RunError("has no checkpoint to measure on")
    match at:
        case "first":
            return steps[:1]
        case "last":
            return steps[-1:]
        case "all":
            return steps
        case _:
            return at
