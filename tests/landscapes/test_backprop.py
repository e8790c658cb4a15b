"""Backpropagation written out gives what autograd gives, and is used for nothing that it does not cover."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lossgeo.components.finding import find
from lossgeo.landscapes.backprop import BACKWARD, Chain
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.landscapes.models import Model, Rows
from lossgeo.landscapes.task import Examples, Task
from lossgeo.randomness import generator

TASK = Task((2, 3), 4, "classes")
LAYERS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "identity": nn.Identity}


def batch(n: int = 9) -> Examples:
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, *TASK.inputs, generator=stream, dtype=torch.float64)
    return Examples(inputs, torch.randint(0, TASK.outputs, (n,), generator=stream))


def test_every_nonlinearity_is_tested() -> None:
    assert set(LAYERS.values()) == set(BACKWARD)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 3, 6)])
@pytest.mark.parametrize("activation", LAYERS)
def test_the_gradient_is_that_of_autograd(activation: str, hidden: tuple[int, ...], bias: bool, loss: str) -> None:
    module = find(Model, "mlp")(hidden=hidden, activation=activation, bias=bias).build(TASK, generator(0, "test"))
    landscape = Landscape(module, find(Loss, loss)(), TASK, batch(), batch(), torch.float64)
    assert Chain.of(module, landscape.loss, landscape.start()) is not None
    inputs = landscape.train.inputs.clone()
    value, gradient = landscape.gradient(landscape.start(), landscape.train, torch.Generator())
    expected = landscape.mean_gradient(landscape.start(), landscape.train)
    assert float(value) == pytest.approx(landscape.evaluate(landscape.start(), landscape.train).loss, rel=1e-14)
    assert (gradient - expected).norm() <= 1e-14 * expected.norm()
    assert torch.equal(landscape.train.inputs, inputs)


@pytest.mark.parametrize("fields", [{"ignore_index": 1}, {"class_weights": (0.5, 1.0, 2.0, 4.0)}])
def test_a_loss_with_options_is_differentiated_too(fields: dict[str, Any]) -> None:
    module = find(Model, "mlp")(hidden=(5,)).build(TASK, generator(0, "test"))
    landscape = Landscape(module, CrossEntropy(**fields), TASK, batch(), batch(), torch.float64)
    assert Chain.of(module, landscape.loss, landscape.start()) is not None
    value, gradient = landscape.gradient(landscape.start(), landscape.train, torch.Generator())
    expected = landscape.mean_gradient(landscape.start(), landscape.train)
    assert float(value) == pytest.approx(landscape.evaluate(landscape.start(), landscape.train).loss, rel=1e-14)
    assert (gradient - expected).norm() <= 1e-14 * expected.norm()


def test_it_follows_theta() -> None:
    module = find(Model, "mlp")(hidden=(5,)).build(TASK, generator(0, "test"))
    landscape = Landscape(module, MSE(), TASK, batch(), batch(), torch.float64)
    for theta in (landscape.start(), landscape.start() * 1.5):
        gradient = landscape.gradient(theta, landscape.train, torch.Generator())[1]
        expected = landscape.mean_gradient(theta, landscape.train)
        assert (gradient - expected).norm() <= 1e-14 * expected.norm()


class Twisted(Rows):
    """A chain of layers whose forward pass is another one."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) ** 2


def tied() -> nn.Module:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return Rows(first, nn.Tanh(), second)


@pytest.mark.parametrize(
    "module",
    [
        Twisted(nn.Linear(6, 4)),
        Rows(nn.Linear(6, 4), nn.GELU()),
        Rows(nn.Linear(6, 4), nn.Dropout(0.5)),
        Rows(nn.Linear(6, 4), nn.BatchNorm1d(4)),
        Rows(nn.Linear(6, 4), nn.Tanh(), nn.Tanh()),
        Rows(nn.Tanh(), nn.Linear(6, 4)),
        Rows(nn.Linear(6, 5).requires_grad_(False), nn.Linear(5, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 4)),
        tied(),
    ],
    ids=["another forward", "gelu", "dropout", "norm", "two in a row", "first", "frozen", "sequential", "tied"],
)
def test_anything_else_is_left_to_autograd(module: nn.Module) -> None:
    assert Chain.of(module, MSE(), torch.zeros(sum(p.numel() for p in module.parameters()))) is None
