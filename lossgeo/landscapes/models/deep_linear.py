"""Deep linear networks: linear as functions, with all the saddles of a deep parametrization."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import final

from pydantic import Field
from torch import nn

from lossgeo.landscapes.models import Model, Rows
from lossgeo.landscapes.task import Task


@final
class DeepLinear(Model):
    """A product of matrices; every critical point under mse is a global minimum or a saddle.

    f(x) = W_depth ... W_2 W_1 x

    Source: Baldi and Hornik 1989; Kawaguchi 2016, theorem 2.3; Saxe et al. 2014 for the dynamics.
    Reduces to `logistic` at depth 1.
    """

    depth: int = Field(default=3, ge=1, le=1000, description="number of linear layers")
    width: int = Field(default=32, ge=1, le=65536, description="outputs of every layer but the last")
    bias: bool = Field(default=False, description="whether layers have biases (the theorems are stated without)")

    def module(self, task: Task) -> nn.Module:
        widths = (prod(task.inputs), *(self.width,) * (self.depth - 1), task.outputs)
        return Rows(*(nn.Linear(inputs, outputs, bias=self.bias) for inputs, outputs in pairwise(widths)))
