"""Torch's layers and functions through every operator: right to 1e-6 by central differences, or refused.

Differences of first-order gradients, and of outputs for the Jacobian, share nothing with double backward. With a step
of 1e-5 both truncation and rounding leave 1e-10 of numbers of size 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

import pytest
import torch
from torch import nn
from torch.nn import functional

from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from tests.support.layers import FEATURES, LAYERS, REFUSED
from tests.support.networks import data, here, landscape_around

RIGHT = 1e-6
STEP = 1e-5
N = 7


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


class Truth:
    """Every operator of a module, by differences of what the module and torch's own loss give."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.module = built(make).double().eval()
        for layer in self.module.modules():
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
                layer.sparse = False
        self.parameters = list(self.module.parameters())
        self.inputs, self.targets = data((FEATURES,), N)

    def moved(self, what: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The derivative of a vector by every parameter in turn, (P, ...)."""
        columns = []
        for parameter in self.parameters:
            numbers = parameter.data.view(-1)
            for i in range(len(numbers)):
                before = float(numbers[i])
                numbers[i] = before + STEP
                above = what()
                numbers[i] = before - STEP
                below = what()
                numbers[i] = before
                columns.append((above - below) / (2 * STEP))
        return torch.stack(columns)

    def gradient(self, rows: slice = slice(None)) -> torch.Tensor:
        loss = functional.cross_entropy(self.module(self.inputs[rows]), self.targets[rows])
        pieces = torch.autograd.grad(loss, self.parameters)
        return torch.cat([piece.reshape(-1) for piece in pieces])

    @cached_property
    def hessian(self) -> torch.Tensor:
        return self.moved(self.gradient).T  # as a product gives it, should it not be symmetric

    @cached_property
    def jacobian(self) -> torch.Tensor:
        with torch.no_grad():
            return self.moved(lambda: self.module(self.inputs))  # (P, N, C)

    @cached_property
    def gauss_newton(self) -> torch.Tensor:
        p = self.module(self.inputs).detach().softmax(1)
        b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return torch.einsum("pnc,ncd,qnd->pq", self.jacobian, b, self.jacobian) / N

    @cached_property
    def covariance(self) -> torch.Tensor:
        rows = [self.gradient(slice(i, i + 1)) for i in range(N)]
        return torch.cov(torch.stack(rows).T, correction=0)

    @cached_property
    def ntk(self) -> torch.Tensor:
        rows = self.jacobian.flatten(1)
        return rows.T @ rows / N


OPERATORS: dict[str, tuple[Operator, Callable[[Truth], torch.Tensor]]] = {
    "hessian": (Hessian(), lambda truth: truth.hessian),
    "finite_difference": (FiniteDifference(), lambda truth: truth.hessian),
    "gauss_newton": (GaussNewton(), lambda truth: truth.gauss_newton),
    "fisher": (Fisher(), lambda truth: truth.gauss_newton),
    "gradient_covariance": (GradientCovariance(), lambda truth: truth.covariance),
    "ntk": (NTK(), lambda truth: truth.ntk),
}


def test_how_many_there_are() -> None:
    assert len(LAYERS) >= 60
    assert len(REFUSED) == 10


@pytest.mark.parametrize("layer", LAYERS)
def test_every_operator_is_right(layer: str) -> None:
    truth = Truth(LAYERS[layer])
    landscape = landscape_around(built(LAYERS[layer]), data((FEATURES,), N))
    assert landscape.size <= 150
    near = here(landscape)
    wrong = {}
    for name, (operator, wanted) in OPERATORS.items():
        found, matrix = operator.at(near).columns(), wanted(truth)
        distance = float((found - matrix).abs().max() / matrix.abs().max())
        if distance > RIGHT:
            wrong[name] = distance
    assert wrong == {}


@pytest.mark.parametrize("layer", REFUSED)
def test_what_autograd_gets_wrong_is_refused(layer: str) -> None:
    near = here(landscape_around(built(REFUSED[layer]), data((FEATURES,), N)))
    truth = Truth(REFUSED[layer])
    reasons = {}
    for name, (operator, wanted) in OPERATORS.items():
        try:
            found = operator.at(near).columns()
        except ValueError as refusal:
            reasons[name] = str(refusal)
        else:
            matrix = wanted(truth)
            assert (found - matrix).abs().max() <= RIGHT * matrix.abs().max(), name
    assert "hessian" in reasons
    for name, reason in reasons.items():
        way_out = "of no loss" if name == "finite_difference" else "use `operator: finite_difference`"
        assert way_out in reason
        assert name == "finite_difference" or re.search(r"layer '[^']+' \((Applied|Hardsigmoid|EmbeddingBag)\)", reason)
