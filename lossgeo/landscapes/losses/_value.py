"""The loss of an analytic surface: its outputs are the values themselves."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.task import Targets, Task


@final
class Value(Loss):
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

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = outputs.detach()
        return f.mean(), torch.full_like(f, 1 / len(f))
