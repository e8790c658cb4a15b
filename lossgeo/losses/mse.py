"""Half the squared error."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch.nn import functional

from lossgeo.losses import Loss
from lossgeo.task import Targets, Task


@final
class MSE(Loss):
    """One half of the squared distance to the target, summed over the outputs; classes become one-hot targets.

    L = (1/2B) sum_i |f_i - y_i|^2

    The half and the sum make its Gauss-Newton matrix the plain mean of J'J, without factors of 2 or C.
    Source: the convention of Cohen et al. 2021; torch's MSELoss, a mean over outputs too, is 2/C times this.
    """

    accepts: ClassVar[tuple[Targets, ...]] = ("classes", "values")

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        if task.targets == "classes":
            targets = functional.one_hot(targets, task.outputs)
        return targets.to(dtype)

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # sum, then scale: reduction="mean" is an op more in the backward pass and takes 2 microseconds longer
        return functional.mse_loss(outputs, targets, reduction="sum") * (0.5 / outputs.shape[0])

    def weight(self, targets: torch.Tensor) -> float:
        return float(targets.shape[0])

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dL/df_i = (f_i - y_i) / B"""
        return self.mean(outputs, targets), (outputs - targets).mul_(1 / len(outputs))
