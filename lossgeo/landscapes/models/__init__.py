"""Networks: each file one family, built for a task.

The interface settles initialization for all of them, users' own models included, and that tokens meet a model that
takes tokens: a model only says which layers it has.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from lossgeo.components.component import Component
from lossgeo.errors import UsageError
from lossgeo.landscapes.models._initialization import Scheme, initialize
from lossgeo.landscapes.task import Task


class Model(Component):
    """A network for a task."""

    tokens: ClassVar[bool] = False  # whether its inputs are ids of tokens; else they are numbers

    initialization: Scheme = Field(
        default="default",
        description="weights of linear and convolution layers; default: what the layers themselves do",
    )
    gain: float = Field(
        default=1.0, gt=0, le=1e6, description="factor on the weights of these layers (biases keep theirs)"
    )

    @abstractmethod
    def module(self, task: Task) -> nn.Module:
        """The network, mapping inputs (B, *task.inputs) to outputs (B, *task.output_shape).

        Whatever its layers draw at random comes from a private copy of torch's generator that `build` has seeded.

        Raises:
            UsageError: this family cannot take inputs of that shape.
        """

    @final
    def build(self, task: Task, generator: torch.Generator) -> nn.Module:
        """The network with its initial weights; a function of the fields, the task and the generator's state alone.

        Weights are drawn in float32, so that runs in float32 and float64 start from one point.

        Raises:
            UsageError: this family cannot take such inputs, or the scheme cannot fill its layers.
        """
        name = self.component_name()
        if self.tokens and task.vocabulary is None:
            raise UsageError(
                f"model {name!r} takes tokens, not numbers of shape {task.inputs}; use `model: mlp` or `dataset: text`"
            )
        if task.vocabulary is not None and not self.tokens:
            raise UsageError(
                f"model {name!r} takes numbers, not sequences of {task.inputs[0]} tokens; use `model: transformer`"
            )
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            # layers fill themselves from the global generator; it is lent to them here and put back as it was
            torch.default_generator.manual_seed(seed)
            module = self.module(task)
        initialize(module, self.initialization, self.gain, generator)
        return module


class Rows(nn.Sequential):
    """Layers on inputs (B, features); images and signals are flattened first.

    A branch on the rank instead of an nn.Flatten in front: on rows it costs nothing, on images it saves a module call,
    and the parameters have the same names on both.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs if inputs.ndim == 2 else inputs.flatten(1)
        for layer in self:
            rows = layer(rows)
        return rows
