"""lossgeo: a laboratory for the geometry of loss landscapes, run from the command line.

Here stands what a file of a user's own needs: `from lossgeo import Optimizer, Step`. Importing lossgeo loads neither
torch nor pandas; a name loads what it needs when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lossgeo.component import Component, Value
    from lossgeo.datasets import Dataset, Raw
    from lossgeo.executors import Executor, Outcome
    from lossgeo.landscape import Landscape
    from lossgeo.linear import LinearOperator
    from lossgeo.losses import Loss
    from lossgeo.models import Model
    from lossgeo.neighborhood import Neighborhood
    from lossgeo.operators import Operator
    from lossgeo.optimizers import Growth, Optimizer, State, Step
    from lossgeo.plants import Plant
    from lossgeo.point import Point
    from lossgeo.probes import Measurement, Probe
    from lossgeo.refiners import Refined, Refiner
    from lossgeo.reports import Report, Summary
    from lossgeo.runs import Run
    from lossgeo.schedules import Schedule
    from lossgeo.study import Study
    from lossgeo.surfaces import CriticalPoint, Surface, Theory
    from lossgeo.tables import Column
    from lossgeo.task import Examples, Task

# where each name of the front door lives; a test holds it to the imports above
HOMES = {
    "lossgeo.component": ("Component", "Value"),
    "lossgeo.datasets": ("Dataset", "Raw"),
    "lossgeo.executors": ("Executor", "Outcome"),
    "lossgeo.landscape": ("Landscape",),
    "lossgeo.linear": ("LinearOperator",),
    "lossgeo.losses": ("Loss",),
    "lossgeo.models": ("Model",),
    "lossgeo.neighborhood": ("Neighborhood",),
    "lossgeo.operators": ("Operator",),
    "lossgeo.optimizers": ("Growth", "Optimizer", "State", "Step"),
    "lossgeo.plants": ("Plant",),
    "lossgeo.point": ("Point",),
    "lossgeo.probes": ("Measurement", "Probe"),
    "lossgeo.refiners": ("Refined", "Refiner"),
    "lossgeo.reports": ("Report", "Summary"),
    "lossgeo.runs": ("Run",),
    "lossgeo.schedules": ("Schedule",),
    "lossgeo.study": ("Study",),
    "lossgeo.surfaces": ("CriticalPoint", "Surface", "Theory"),
    "lossgeo.tables": ("Column",),
    "lossgeo.task": ("Examples", "Task"),
}
_HOME = {name: module for module, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
