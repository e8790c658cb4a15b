"""What a run's folder holds already, and where training goes on from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from lossgeo.components.times import MAX_STEPS
from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.errors import RunError, UsageError
from lossgeo.files import set_aside
from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.schedules import Rates
from lossgeo.recipes.recipe import Recipe
from lossgeo.runs.columns import OF_TRAINING
from lossgeo.runs.run import FINISHED, Run, Tensors, contained
from lossgeo.tables import Column, Table, read


def finished(run: Run) -> bool:
    """Whether nothing is left to train: the run has ended, and its recipe and all its tables are as they were left.

    Raises:
        RunError: its manifest cannot be read, or its data changed since.
    """
    if run.manifest().get("status") not in FINISHED or _lost(run) or not run.untouched():
        return False
    with contained(run):
        try:
            if run.recipe.dataset is not None:
                run.check_data(data_sha256(run.recipe.dataset))
        except UsageError:  # data that are no longer there, or cannot be read here, are no reason to do anything
            return True
    return True


@cache
def data_sha256(dataset: Dataset) -> str:
    """Of a dataset's content now, read once a process: the runs of a sweep share it."""
    return dataset.sha256()


def _tables(recipe: Recipe) -> dict[str, tuple[Column, ...]]:
    """The tables that training fills, by name."""
    own = {name: columns for name, columns in OF_TRAINING.items() if name != "escapes" or recipe.escape is not None}
    return own | {p.table_name(): p.table() for p in recipe.probes}


def _lost(run: Run) -> list[Path]:
    """The tables of the training that cannot be read, or are gone."""
    begun = "step" in run.manifest()  # which is noted after the first of all tables were written
    lost = []
    for path in (run.folder / f"{name}.parquet" for name in _tables(run.recipe)):
        try:
            if begun or path.exists():
                read(path)
        except RunError:
            lost.append(path)
    return lost


def resume(
    run: Run,
    landscape: Landscape,
    loss: BatchLoss,
    start: torch.Tensor,
    rates: Rates,
    noise: torch.Generator,
    memories: dict[str, Memory],
) -> tuple[Point, list[str]]:
    """The point of the newest whole checkpoint up to where the tables end, or `start`; and what to tell the user.

    Sets the landscape's buffers, the noise stream and the probes' memories to that point.
    """
    notes: list[str] = []
    if lost := _lost(run):
        # Rows before a checkpoint cannot be had back but by training again, which gives the same ones. From here on
        # the tables end at step 0, so that no later checkpoint is gone on from before training has passed it.
        run.note(step=0)
        for path in lost:
            fate = f"was torn and is kept as {set_aside(path, 'torn').name}" if path.exists() else "is gone"
            notes.append(f"{path} {fate}; training again from the start")
    else:
        reached = int(run.manifest().get("step", MAX_STEPS))
        for step in sorted((s for s in run.checkpoints() if s <= reached), reverse=True):
            try:
                tensors = run.load(step)
            except RunError as error:
                notes.append(f"{error}; an earlier one serves in its place")
                continue
            return restore(landscape, step, tensors, memories, run.recipe.optimizer, rates, noise), notes
    theta, optimizer = start.clone(), run.recipe.optimizer
    return Point(0, theta, optimizer.init(loss, theta), optimizer, rates), notes


def opened(run: Run, step: int) -> dict[str, Table]:
    """The tables by name; rows of steps that come again are left out where nothing would replace them."""
    tables = {name: run.table(name, columns) for name, columns in _tables(run.recipe).items()}
    for name in ("steps", "evaluations"):
        tables[name].keep(row["step"] < step for row in tables[name].rows)
    return tables


def packed(landscape: Landscape, point: Point, noise: torch.Generator, memories: dict[str, Memory]) -> Tensors:
    """`theta`, `noise`, `state/<name>` of the optimizer, `buffers/<name>` of the model, `memory/<probe>/<name>`.

    With replicas theta is (R, P), and there is `trials/<name>`.
    """
    groups = {"state": point.state, "buffers": landscape.flat.buffers(), "trials": point.trials}
    groups |= {f"memory/{key}": memory for key, memory in memories.items()}
    tensors = {f"{group}/{name}": t for group, members in groups.items() for name, t in members.items()}
    return {"theta": point.theta, "noise": noise.get_state(), **tensors}


def _parted(name: str) -> tuple[str, str]:
    """The group that `packed` put a tensor in, and its own name there, which may hold a slash too."""
    group, slash, member = name.partition("/")
    if not slash:
        return "", name
    if group == "memory":
        key, _, member = member.partition("/")
        return f"memory/{key}", member
    return group, member


def restore(
    landscape: Landscape,
    step: int,
    tensors: Tensors,
    memories: dict[str, Memory],
    optimizer: Optimizer,
    rates: Rates,
    noise: torch.Generator | None = None,
) -> Point:
    """The point in such tensors; sets the landscape's buffers, the probes' memories and the noise stream to it."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, member = _parted(name)
        groups.setdefault(group, {})[member] = tensor
    landscape.flat.restore(groups.get("buffers", {}))
    if noise is not None:
        noise.set_state(groups[""]["noise"])
    for key, memory in memories.items():
        memories[key] = groups.get(f"memory/{key}", memory)  # one that was not there in training goes on as it is
    theta = groups[""]["theta"].to(landscape.device)
    # what stands beside theta lives where theta lives; counters and the like stay on the CPU
    state = {n: t.to(theta.device) if t.ndim else t for n, t in groups.get("state", {}).items()}
    return Point(step, theta, state, optimizer, rates, trials=groups.get("trials", {}))
