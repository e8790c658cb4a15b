"""A point and what probe `critical_points` says of it, and functions of theta in a few characters as landscapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lossgeo.landscapes.critical_point import Knowledge
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.surface_module import SurfaceLoss
from lossgeo.landscapes.task import Examples, Task
from lossgeo.probes.critical_points import CriticalPoints
from lossgeo.tables import Row

Value = Callable[[torch.Tensor], torch.Tensor]  # theta (..., P) -> (...)


def found(landscape: Landscape, theta: torch.Tensor, **options: Any) -> Row:
    measured = CriticalPoints(**options).run(landscape, Point(0, theta.clone(), {}), {}, 0)
    (row,) = measured.rows
    assert row.get("failure") is None, row["failure"]
    return row


class Formula(nn.Module):
    """f(theta) for every example."""

    def __init__(self, value: Value, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.value = value

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.value(self.theta).expand(len(inputs), 1)


def landscape_of_formula(value: Value, size: int) -> Landscape:
    """Over one example."""
    examples = Examples(torch.zeros(1, size, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    return Landscape(
        Formula(value, size),
        SurfaceLoss(),
        Task((size,), 1, "values"),
        examples,
        examples.rows(slice(0, 0)),
        torch.float64,
        formula=value,
        known=Knowledge("f", invariants=lambda theta: theta),
    )
