"""The tables of a run: the columns of those that training itself fills, and what there is in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lossgeo.components.catalog import catalog
from lossgeo.probes import Probe
from lossgeo.tables import DECAY, KEYS, Column, Row

STEPS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("loss", "float", "loss", f"on the batch, before the step{DECAY}"),
    Column("gradient_norm", "float", "loss / parameter", f"Euclidean norm of the batch's, before the step{DECAY}"),
    Column("lr", "float", "", "learning rate of the step"),
    Column(
        "threshold",
        "float",
        "as threshold_of",
        "curvature above which a full-batch step at this rate contracts no more; null: no theory says",
    ),
    Column(
        "threshold_of",
        "string",
        "",
        "operator whose largest eigenvalue it is for: hessian, or preconditioned",
    ),
)
EVALUATIONS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("split", "string", "", "train or test: the whole of it"),
    Column("loss", "float", "loss", f"mean over the examples{DECAY}"),
    Column("accuracy", "float", "fraction", "share of examples whose class is right; null where targets are values"),
    Column(
        "gradient_norm", "float", "loss / parameter", f"of the full gradient; null where no rule asks for it{DECAY}"
    ),
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
    Column(
        "predicted_steps",
        "float",
        "steps",
        "by the linear theory, from where it began; with noise the median over trials; null: no theory says",
    ),
)
OF_TRAINING = {"steps": STEPS, "evaluations": EVALUATIONS, "escapes": ESCAPES}


def tables(search: tuple[Path, ...] = ()) -> dict[str, tuple[Column, ...]]:
    """Every table that a run can hold and its columns: those that training fills, then those of all probes by name."""
    interface: Any = Probe  # abstract, which mypy takes for a mistake here
    probes = {probe.table_name(): probe.table() for probe in catalog(interface, search).values()}
    return {name: (*KEYS, *columns) for name, columns in (OF_TRAINING | probes).items()}


def listed(search: tuple[Path, ...] = ()) -> list[Row]:
    """One row a column: the table that has it, its type, its unit and what it means."""
    return [
        {"table": name, "column": c.name, "type": c.type, "unit": c.unit, "meaning": c.meaning}
        for name, columns in tables(search).items()
        for c in columns
    ]
