"""Every surface in settings worth a test, and the landscape over one."""

from __future__ import annotations

from typing import Any

from lossgeo.components.catalog import catalog
from lossgeo.components.component import dump
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.surfaces import Surface
from lossgeo.recipes.documents import Document
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.building import landscape_and_data

# the keys without a default, and other settings worth a test of their own
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "quadratic": [{"spectrum": (1.0, 0.5, -0.2)}, {"spectrum": (1.0, 0.0, -0.2), "rotation": 3, "dimension": 5}],
    "strict_saddle": [{}, {"spectrum": (2.0, -1.0, -0.5), "wall": 0.7}],
    "noisy_saddle": [{}, {"spectrum": (1.0, 0.5, -0.5), "along": "all", "noise": 0.3, "examples": 6}],
    "octopus": [{}, {"dimension": 3, "L": 2.0, "gamma": 0.5, "tau": 1.0}],
    "rosenbrock": [{}, {"dimension": 5}],
    "random_hessians": [{"count": 20}, {"dimension": 5, "count": 300, "seed": 3}],
    "rastrigin": [{}, {"dimension": 1, "depth": 3.0}, {"dimension": 6}],
    "spherical_p_spin": [{"dimension": 8}, {"dimension": 6, "p": 4, "seed": 1}, {"dimension": 6, "p": 2}],
    "linear_autoencoder": [
        {"inputs": 4, "hidden": 2},
        {"inputs": 5, "hidden": 3, "covariance": (3.0, 1.0, 2.5, 0.5, 4.0), "rotation": 2},
        {"inputs": 2, "hidden": 2},
    ],
    "catapult": [{"width": 4}],
}
SURFACES = [cls(**settings) for name, cls in catalog(Surface).items() for settings in SETTINGS.get(name, [{}])]


def landscape_over(surface: Surface) -> Landscape:
    """A surface as the landscape that a training sees."""
    plain = {"name": "x", "surface": dump(surface), "optimizer": "sgd", "steps": 1}
    (resolved,) = resolve(Document(plain, "test"))
    return landscape_and_data(resolved.recipe, "cpu")[0]
