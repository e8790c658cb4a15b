"""Every component in the folders, and files of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lossgeo.components.catalog import interfaces
from lossgeo.components.finding import names

INTERFACES = interfaces()
# keys that have no default; a new component with required keys needs a line here
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("datasets", "file"): {"path": "mine.npz"},
    ("surfaces", "quadratic"): {"spectrum": [1.0, -0.5]},
    ("schedules", "step"): {"every": 7},
    ("schedules", "exponential"): {"gamma": 0.9},
    ("schedules", "piecewise"): {"boundaries": [5, 11], "factors": [0.5, 0.01]},
}
EVERY = [(folder, name) for folder, interface in INTERFACES.items() for name in names(interface)]

OWN = """
from typing import final
from pydantic import Field
from torch import nn
from lossgeo import Model

@final
class {name}(Model):
    \"\"\"A model of the user's.\"\"\"
    width: int = Field(default=3, ge=1, description="of the layer")
    def module(self, task):
        return nn.Linear(self.width, task.outputs)
"""


def plain(folder: str, name: str) -> dict[str, Any]:
    """The shortest mapping that names a component."""
    return {"name": name, **REQUIRED.get((folder, name), {})}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
