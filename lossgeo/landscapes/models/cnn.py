"""A plain convolutional network for images and for signals."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal, final

from pydantic import Field
from torch import nn

from lossgeo.errors import UsageError
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models._activation import Activation, activation_module
from lossgeo.landscapes.task import Task

Channels = Annotated[int, Field(ge=1, le=65536)]

_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}
_POOLING = {
    ("average", 1): nn.AvgPool1d,
    ("average", 2): nn.AvgPool2d,
    ("max", 1): nn.MaxPool1d,
    ("max", 2): nn.MaxPool2d,
}


@final
class CNN(Model):
    """Stages of convolution, nonlinearity and pooling by two, then one linear layer.

    A convolution keeps height and width, a pooling halves each side that is still at least 2 (28 -> 14 -> 7 -> 3), so
    small images take deep networks too.

    Errors: inputs that are no signals (channels, length) and no images (channels, height, width).
    """

    channels: tuple[Channels, ...] = Field(
        default=(16, 32, 64), min_length=1, max_length=100, description="channels that each stage gives out"
    )
    kernel: Literal[1, 3, 5, 7] = Field(default=3, description="side of every kernel (odd, so that sizes are kept)")
    activation: Activation = Field(default="relu", description="nonlinearity after every convolution")
    # average: max has kinks of its own, which would spoil second derivatives even where the activation is smooth
    pooling: Literal["average", "max"] = Field(
        default="average", description="what a pooling keeps of its 2 x 2 numbers"
    )

    def module(self, task: Task) -> nn.Module:
        if len(task.inputs) not in (2, 3):
            raise UsageError(
                "model 'cnn' takes signals (channels, length) or images (channels, height, width), not inputs of shape "
                f"{task.inputs}; use `model: mlp`, or give the dataset's examples a `shape` where it has that key"
            )
        inputs, *sides = task.inputs
        layers: list[nn.Module] = []
        for outputs in self.channels:
            layers.append(_CONVOLUTION[len(sides)](inputs, outputs, self.kernel, padding=self.kernel // 2))
            layers.append(activation_module(self.activation))
            window = tuple(min(2, side) for side in sides)
            if max(window) > 1:
                layers.append(_POOLING[self.pooling, len(sides)](window))
            sides = [side // w for side, w in zip(sides, window, strict=True)]
            inputs = outputs
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * prod(sides), task.outputs))
