"""The multilayer perceptron; on images and signals too, which it flattens."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, final

from pydantic import Field
from torch import nn

from lossgeo.landscapes.models import Model, Rows
from lossgeo.landscapes.models._activation import Activation, activation_module
from lossgeo.landscapes.task import Task

Width = Annotated[int, Field(ge=1, le=65536)]


@final
class MLP(Model):
    """Fully connected layers with a nonlinearity between them.

    h_0 = x,  h_l = s(W_l h_{l-1} + b_l),  f(x) = W_L h_{L-1} + b_L

    Reduces to `logistic` with `hidden: []` and to `deep_linear` with `activation: identity` and no biases.
    """

    hidden: tuple[Width, ...] = Field(default=(64, 64), max_length=1000, description="widths of the hidden layers")
    activation: Activation = Field(default="tanh", description="nonlinearity after every hidden layer")
    bias: bool = Field(default=True, description="whether layers have biases")

    def module(self, task: Task) -> nn.Module:
        widths = (prod(task.inputs), *self.hidden, task.outputs)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=self.bias), activation_module(self.activation)]
        return Rows(*layers[:-1])  # the last layer's outputs are the network's: no nonlinearity after it
