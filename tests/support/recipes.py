"""Recipes in which every named component has a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lossgeo.recipes.documents import read_document, write_document
from lossgeo.recipes.resolving import Resolved, resolve

BASE: dict[str, Any] = {
    "name": "base",
    "claim": {"says": "it holds", "source": "us", "report": "sharpness"},
    "model": "mlp",
    "dataset": "digits",
    "loss": "mse",
    "optimizer": "sgd",
    "batch_size": 16,
    "steps": 10,
    "stop": {},
    "probes": ["trace"],
}
ON_SURFACE: dict[str, Any] = {
    "name": "on_a_surface",
    "surface": {"name": "octopus", "dimension": 4},
    "start": {"at": "saddle"},
    "escape": {"distance": 1.0},
    "optimizer": "sgd",
    "steps": 10,
}
# keys that a network has no use for
OF_SURFACES = ("surface", "start", "escape")
# where a recipe holds a component of each kind
PLACES: dict[str, tuple[str | int, ...]] = {
    "models": ("model",),
    "datasets": ("dataset",),
    "losses": ("loss",),
    "optimizers": ("optimizer",),
    "schedules": ("schedule",),
    "probes": ("probes", 0),
    "operators": ("probes", 0, "operator"),
    "surfaces": ("surface",),
    "refiners": ("probes", 0, "refine"),
    "plants": ("start", "plant"),
}


def base_of(folder: str) -> dict[str, Any]:
    """The recipe in which a component of that kind can stand."""
    if folder == "plants":
        return {**BASE, "start": {}}
    if folder == "refiners":
        return {**BASE, "probes": ["critical_point_search"]}
    return {key: value for key, value in ON_SURFACE.items() if key != "start"} if folder == "surfaces" else BASE


def of(recipe: dict[str, Any], search: tuple[Path, ...] = ()) -> Resolved:
    (run,) = resolve(read_document(write_document(recipe), "f.yaml"), search=search)
    return run


def placed(recipe: Any, way: tuple[str | int, ...], value: Any) -> Any:
    """The recipe with a value in a place; a component's bare name on the way becomes a mapping."""
    if not way:
        return value
    if isinstance(way[0], int):
        return [placed(item, way[1:], value) if i == way[0] else item for i, item in enumerate(recipe)]
    here = {"name": recipe} if isinstance(recipe, str) else recipe or {}
    return {**here, way[0]: placed(here.get(way[0]), way[1:], value)}
