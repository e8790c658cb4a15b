"""What a run's folder holds already, and where training goes on from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from lossgeo.components.times import MAX_STEPS
from lossgeo.errors import RunError, UsageError
from lossgeo.files import set_aside
from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.recipes.recipe import Recipe
from lossgeo.runs.containment import contained
from lossgeo.runs.packing import restored
from lossgeo.runs.run import FINISHED, Run
from lossgeo.tables import Column, Table, read

STEPS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("loss", "float", "loss", "on the batch, before the step"),
    Column("gradient_norm", "float", "loss / parameter", "Euclidean norm of the batch's gradient, before the step"),
    Column("lr", "float", "", "learning rate of the step"),
)
EVALUATIONS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("split", "string", "", "train or test: the whole of it"),
    Column("loss", "float", "loss", "mean over the examples"),
    Column("accuracy", "float", "fraction", "share of examples whose class is right; null where targets are values"),
    Column("gradient_norm", "float", "loss / parameter", "of the full gradient; null where no rule asks for it"),
    Column("parameter_norm", "float", "parameter", "Euclidean norm of theta"),
    Column("distance", "float", "parameter", "Euclidean distance from the start"),
)
ESCAPES = (
    Column("saddle", "int", "", "number of the saddle, counted from 0 in the surface's order"),
    Column("start_step", "int", "steps", "when the trial was there: 0, or when it left the one before"),
    Column("escape_step", "int", "steps", "the first step at which it had left; null: it had not when it ended"),
    Column("censored", "bool", "", "whether it had not left by its last step"),
    Column("last_step", "int", "steps", "the last step at which it was looked at"),
    Column("ended", "string", "", "escaped, budget, diverged, returned or stopped: how the trial ended"),
    Column("underflow", "bool", "", "censored, and what could grow fell below the smallest normal number"),
    Column("predicted_steps", "float", "steps", "by the local spectrum, from where it began; null: no theory says"),
)


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
                run.check_data(_sha256(run.recipe.dataset))
        except UsageError:  # data that are no longer there, or cannot be read here, are no reason to do anything
            return True
    return True


@cache
def _sha256(dataset: Dataset) -> str:
    """Of a dataset's content now, read once a process: the runs of a sweep share it."""
    return dataset.load().sha256


def _tables(recipe: Recipe) -> dict[str, tuple[Column, ...]]:
    """The tables that training fills, by name."""
    own = {"steps": STEPS, "evaluations": EVALUATIONS}
    if recipe.escape is not None:
        own["escapes"] = ESCAPES
    return own | {p.component_name(): p.table() for p in recipe.probes}


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


def resumed(
    run: Run, landscape: Landscape, start: torch.Tensor, noise: torch.Generator, memories: dict[str, Memory]
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
            return restored(landscape, step, tensors, memories, run.recipe.optimizer, noise), notes
    theta = start.clone()
    optimizer = run.recipe.optimizer
    return Point(0, theta, optimizer.init(landscape, theta), optimizer), notes


def opened(run: Run, step: int) -> dict[str, Table]:
    """The tables by name; rows of steps that come again are left out where nothing would replace them."""
    tables = {name: run.table(name, columns) for name, columns in _tables(run.recipe).items()}
    for name in ("steps", "evaluations"):
        tables[name].keep(row["step"] < step for row in tables[name].rows)
    return tables
