"""Modules under the names they had when run folders with copies of users' components were made.

Such a copy says `from lossgeo.models import Model`. It is read as it was written: while a user's file is imported, an
old name stands for the module that has its content now. Nothing of lossgeo itself imports an old name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

OLD = {
    "component": "components.component",
    "datasets": "landscapes.datasets",
    "executors": "runs.executors",
    "landscape": "landscapes.landscape",
    "linear": "curvature.spectral.linear_operator",
    "losses": "landscapes.losses",
    "models": "landscapes.models",
    "operators": "curvature.operators",
    "plants": "saddles.plants",
    "point": "landscapes.point",
    "refiners": "saddles.refiners",
    "schedules": "optimizers.schedules",
    "spectral": "curvature.spectral",
    "study": "reports.analysis.study",
    "surfaces": "landscapes.surfaces",
    "task": "landscapes.task",
    "times": "components.times",
}


class _Old(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `lossgeo.<old>` and everything below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parts = fullname.split(".")
        known = parts[0] == "lossgeo" and len(parts) > 1 and parts[1] in OLD
        return importlib.machinery.ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        _, old, *rest = module.__name__.split(".")
        # what import then hands out is what stands in sys.modules, not the empty module that it made
        sys.modules[module.__name__] = importlib.import_module(".".join(["lossgeo", OLD[old], *rest]))


@contextmanager
def old_names() -> Iterator[None]:
    """Old names can be imported while inside."""
    finder = _Old()
    sys.meta_path.append(finder)  # behind Python's own, which find everything that is there under its name
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
