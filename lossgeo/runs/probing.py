"""Probes on the points that a run kept: the same measurements as during training, on its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from lossgeo.errors import RunError, Stopped
from lossgeo.files import set_aside
from lossgeo.landscapes.landscape import Memory
from lossgeo.landscapes.point import Point
from lossgeo.probes import Probe
from lossgeo.runs.building import landscape_and_data
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.machine import pick_device
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
    with run.locked(), contained(run):
        torch.set_num_threads(1)  # the start as in training
        landscape, data = landscape_and_data(run.recipe, pick_device(device or run.recipe.device))
        torch.set_num_threads(int(run.manifest().get("threads", 1)))
        run.check_data(data.sha256)
        for p in probes:
            p.check(landscape)
        tables: dict[str, Table] = {}
        for p in probes:
            if p.component_name() not in tables:
                tables[p.component_name()], note = _opened(run, p)
                yield Progress(0, 1, note=note)
        final = max(run.checkpoints(), default=0) if run.manifest().get("status") in FINISHED else None
        there = {(row["probe"], row["step"]): row["failure"] for t in tables.values() for row in t.rows}
        steps = _chosen(list(run.checkpoints()), at, run)
        # a failure may have passed, so only rows without one are left alone
        measured = {key for key, failure in there.items() if failure is None}
        missing = [(step, p) for step in steps for p in probes if (p.key(), step) not in measured]
        broken = []
        memories: dict[str, Memory] = {p.key(): {} for p in probes}
        point: Point | None = None  # one for all probes of a step, so that they share what they compute, as in training
        for number, (step, p) in enumerate(missing, start=1):
            if interrupt:
                raise Stopped(interrupt.signum)
            if point is None or point.step != step:
                try:
                    point = restore(landscape, step, run.load(step), memories, run.recipe.optimizer)
                except RunError as error:
                    broken.append(str(error))
                    continue
            point.last = step == final
            table = tables[p.component_name()]
            if (p.key(), step) in there:
                table.drop(p.key(), step)
            found = p.measured(landscape, point, memories[p.key()], run.recipe.seed)
            memories[p.key()] = found.memory
            for row in found.rows:
                table.append({"run": run.id} | row)
            table.flush()
            if found.vectors:
                run.keep(p.key(), step, found.vectors)
            failed = next((row["failure"] for row in found.rows if row.get("failure")), None)
            note = f"{run.folder}: {p.component_name()} at step {step} failed: {failed}" if failed else None
            yield Progress(number, len(missing), note=note)
        if broken:
            raise RunError("; ".join(dict.fromkeys(broken)))


def _opened(run: Run, probe: Probe) -> tuple[Table, str | None]:
    """A probe's table; a torn one that training does not fill is set aside, with a sentence that says so."""
    name = probe.component_name()
    path = run.folder / f"{name}.parquet"
    note = None
    if path.exists() and name not in {p.component_name() for p in run.recipe.probes}:
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
