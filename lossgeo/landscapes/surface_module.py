"""A surface as a network with one layer: what operators, probes and checkpoints know to handle."""

from __future__ import annotations

import hashlib
from typing import ClassVar, final

import torch
from torch import nn

from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.task import Examples, Targets, Task


class SurfaceModule(nn.Module):
    """Maps tilts b (B, P) to values f(theta) + b . theta, (B, 1)."""

    def __init__(self, surface: Surface, theta: torch.Tensor) -> None:
        super().__init__()
        self.surface = surface
        self.theta = nn.Parameter(theta)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.surface.value(self.theta) + inputs @ self.theta).unsqueeze(-1)


def surface_data(surface: Surface) -> Data:
    """The tilts as examples; there is no test set."""
    tilts = surface.tilts()
    sha256 = hashlib.sha256(str(tuple(tilts.shape)).encode() + tilts.numpy().tobytes()).hexdigest()
    train = Examples(tilts, tilts.new_zeros(len(tilts), 1))
    name = surface.component_name()
    return Data(train, train.rows(slice(0, 0)), Task((surface.size,), 1, "values"), name, f"surface {name}", sha256)


@final
class SurfaceLoss(Loss):
    """The mean of the outputs; targets do not matter."""

    accepts: ClassVar[tuple[Targets, ...]] = ("values",)

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets.to(dtype)

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    def weight(self, targets: torch.Tensor) -> float:
        return float(len(targets))

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.flatten()

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.new_ones(len(targets), dtype=torch.float64)

    def gradient(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = outputs.detach()
        return f.mean(), torch.full_like(f, 1 / len(f))
