"""lossgeo: a laboratory for the geometry of loss landscapes, run from the command line.

Here stands what a file of a user's own needs: `from lossgeo import Optimizer, Step`. Importing lossgeo loads neither
torch nor pandas; a name loads what it needs when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lossgeo.components.component import Component as Component, Value as Value
    from lossgeo.curvature.batch_loss import BatchLoss as BatchLoss
    from lossgeo.curvature.local_loss import LocalLoss as LocalLoss
    from lossgeo.curvature.operators import Operator as Operator
    from lossgeo.curvature.operators.gauss_newton import GaussNewton as GaussNewton
    from lossgeo.curvature.operators.hessian import Hessian as Hessian
    from lossgeo.curvature.spectral.linear_operator import LinearOperator as LinearOperator
    from lossgeo.landscapes.critical_point import CriticalPoint as CriticalPoint, Theory as Theory
    from lossgeo.landscapes.datasets import Dataset as Dataset, Raw as Raw
    from lossgeo.landscapes.landscape import Landscape as Landscape
    from lossgeo.landscapes.losses import Loss as Loss
    from lossgeo.landscapes.models import Model as Model
    from lossgeo.landscapes.point import Point as Point, Preconditioner as Preconditioner
    from lossgeo.landscapes.surfaces import Surface as Surface
    from lossgeo.landscapes.task import Examples as Examples, Task as Task
    from lossgeo.optimizers import (
        Optimizer as Optimizer,
        Recursion as Recursion,
        State as State,
        Step as Step,
        Threshold as Threshold,
    )
    from lossgeo.optimizers.schedules import Schedule as Schedule
    from lossgeo.probes import Measurement as Measurement, Probe as Probe
    from lossgeo.probes._curvature import CurvatureProbe as CurvatureProbe
    from lossgeo.reports import Report as Report, Summary as Summary
    from lossgeo.reports.analysis.study import Study as Study
    from lossgeo.runs.executors import Executor as Executor, Outcome as Outcome
    from lossgeo.runs.run import Run as Run
    from lossgeo.saddles.plants import Plant as Plant
    from lossgeo.saddles.refiners import Refined as Refined, Refiner as Refiner
    from lossgeo.tables import Column as Column

# where each name of the front door lives; a test holds it to the imports above
HOMES = {
    "lossgeo.components.component": ("Component", "Value"),
    "lossgeo.curvature.batch_loss": ("BatchLoss",),
    "lossgeo.curvature.local_loss": ("LocalLoss",),
    "lossgeo.curvature.operators": ("Operator",),
    "lossgeo.curvature.operators.gauss_newton": ("GaussNewton",),
    "lossgeo.curvature.operators.hessian": ("Hessian",),
    "lossgeo.curvature.spectral.linear_operator": ("LinearOperator",),
    "lossgeo.landscapes.critical_point": ("CriticalPoint", "Theory"),
    "lossgeo.landscapes.datasets": ("Dataset", "Raw"),
    "lossgeo.landscapes.landscape": ("Landscape",),
    "lossgeo.landscapes.losses": ("Loss",),
    "lossgeo.landscapes.models": ("Model",),
    "lossgeo.landscapes.point": ("Point", "Preconditioner"),
    "lossgeo.landscapes.surfaces": ("Surface",),
    "lossgeo.landscapes.task": ("Examples", "Task"),
    "lossgeo.optimizers": ("Optimizer", "Recursion", "State", "Step", "Threshold"),
    "lossgeo.optimizers.schedules": ("Schedule",),
    "lossgeo.probes": ("Measurement", "Probe"),
    "lossgeo.probes._curvature": ("CurvatureProbe",),
    "lossgeo.reports": ("Report", "Summary"),
    "lossgeo.reports.analysis.study": ("Study",),
    "lossgeo.runs.executors": ("Executor", "Outcome"),
    "lossgeo.runs.run": ("Run",),
    "lossgeo.saddles.plants": ("Plant",),
    "lossgeo.saddles.refiners": ("Refined", "Refiner"),
    "lossgeo.tables": ("Column",),
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
