"""One linear layer: the model whose landscape is convex, and so the first oracle of everything measured here."""

from __future__ import annotations

from math import prod
from typing import final

from pydantic import Field
from torch import nn

from lossgeo.landscapes.models import Model, Rows
from lossgeo.landscapes.task import Task


@final
class Logistic(Model):
    """A linear map of the inputs: softmax regression under cross-entropy, least squares under mse.

    f(x) = W x + b

    Both losses are convex in (W, b), so every negative eigenvalue of their Hessian is an error of measurement.
    """

    bias: bool = Field(default=True, description="whether the layer has a bias")

    def module(self, task: Task) -> nn.Module:
        return Rows(nn.Linear(prod(task.inputs), task.outputs, bias=self.bias))
