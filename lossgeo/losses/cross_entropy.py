"""Cross-entropy of a softmax."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch.nn import functional

from lossgeo.losses import Loss
from lossgeo.task import Targets, Task


@final
class CrossEntropy(Loss):
    """The negative log-likelihood of the target class under a softmax of the outputs.

    L = -(1/B) sum_i ln( exp f_{i, y_i} / sum_c exp f_{i, c} )
    """

    accepts: ClassVar[tuple[Targets, ...]] = ("classes",)

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets)

    def weight(self, targets: torch.Tensor) -> float:
        return float(targets.shape[0])

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dL/df_i = (softmax(f_i) - e_{y_i}) / B"""
        log_p = functional.log_softmax(outputs, 1)
        loss = functional.nll_loss(log_p, targets)
        p = log_p.exp_()
        return loss, p.scatter_add_(1, targets[:, None], p.new_full((len(p), 1), -1.0)).mul_(1 / len(p))
