"""The unit that a row states is the one its values have: they scale with it when the loss or the parameters do."""

from __future__ import annotations

from typing import ClassVar, final

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lossgeo.components.catalog import catalog
from lossgeo.components.finding import find
from lossgeo.curvature.operators import Operator
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Targets, Task
from lossgeo.optimizers.adam import Adam
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.tables import Row
from tests.support.networks import CLASSES, data
from tests.support.steps import batch_loss

CURVATURE = "loss / parameter^2"
UNITS = {
    "finite_difference": CURVATURE,
    "fisher": CURVATURE,
    "gauss_newton": CURVATURE,
    "gradient_covariance": "(loss / parameter)^2",
    "hessian": CURVATURE,
    "ntk": "(output / parameter)^2",
    "preconditioned": f"{CURVATURE} / D",
}
# the powers by which values change with the size of the loss, and with that of the unit of parameters
POWERS = {
    CURVATURE: (1, 2),
    "(loss / parameter)^2": (2, 2),
    "(output / parameter)^2": (0, 2),
    f"{CURVATURE} / D": (0, 1),
}


VALUES = {"eigenvalues": "eigenvalue", "trace": "value", "density": "node"}


@final
class Scaled(Loss):
    """Some multiple of the cross-entropy."""

    accepts: ClassVar[tuple[Targets, ...]] = ("classes",)
    by: float = 1.0

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.by * cross_entropy(outputs, targets)

    def weight(self, targets: torch.Tensor) -> float:
        return float(len(targets))


class Linear(nn.Module):
    """f = W x, the parameters being W / `by`."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by
        start = torch.linspace(-1, 1, 6 * CLASSES, dtype=torch.float64).sin().view(CLASSES, 6)
        self.weight = nn.Parameter(start / by)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.by * self.weight).T


def measured(operator: str, loss: float, parameter: float) -> dict[str, Row]:
    """Of every probe of an operator the row of the largest value, after a step of Adam's."""
    examples = data((6,))
    made = Scaled(by=loss)
    landscape = Landscape(
        Linear(parameter), made, Task((6,), CLASSES, "classes"), examples, examples.rows(slice(0, 0)), torch.float64
    )
    adam, theta, whole = Adam(lr=1e-12, eps=1e-30), landscape.start(), batch_loss(landscape)
    taken = adam.step(whole, theta, adam.init(whole, theta), adam.lr)
    point = Point(1, taken.theta, taken.state, adam)
    chosen = find(Operator, operator)()
    probes = (Eigenvalues(operator=chosen), Trace(operator=chosen), Density(operator=chosen))
    found = {probe.component_name(): probe.run(landscape, point, {}, 0).rows for probe in probes}
    return {name: max(rows, key=lambda row: row[VALUES[name]]) for name, rows in found.items()}


def test_every_operator_has_one() -> None:
    assert list(UNITS) == list(catalog(Operator))


@pytest.mark.parametrize("operator", sorted(set(UNITS) - {"fisher"}))  # a law of its own only for a true likelihood
def test_values_scale_as_their_unit_says(operator: str) -> None:
    before, louder, finer = (measured(operator, *by) for by in ((1.0, 1.0), (3.0, 1.0), (1.0, 2.0)))
    of_loss, of_parameter = POWERS[UNITS[operator]]
    near = 1e-5 if operator == "finite_difference" else 1e-9
    for probe, row in before.items():
        assert row["unit"] == UNITS[operator]
        value = VALUES[probe]
        assert louder[probe][value] == pytest.approx(3.0**of_loss * row[value], rel=near)
        assert finer[probe][value] == pytest.approx(2.0**of_parameter * row[value], rel=near)


def test_columns_of_curvature_refer_to_it() -> None:
    probes = (Eigenvalues, Trace, Density)
    columns = {(probe.component_name(), c.name): c.unit for probe in probes for c in probe.table()}
    assert columns["eigenvalues", "eigenvalue"] == columns["trace", "value"] == columns["density", "node"] == "unit"
    assert columns["trace", "squares"] == "unit^2"
    assert not any("loss" in unit for unit in columns.values())
