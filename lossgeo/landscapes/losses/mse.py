"""Half the squared error."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch.nn import functional

from lossgeo.landscapes.losses import Loss, refuse_strange_classes
from lossgeo.landscapes.task import Targets, Task


@final
class MSE(Loss):
    """One half of the squared distance to the target, summed over the outputs; classes become one-hot targets.

    L = (1/2B) sum_i |f_i - y_i|^2, i over the B examples, or over all their positions

    The half and the sum make its Gauss-Newton matrix the plain mean of J'J, without factors of 2 or C. It is the
    negative log-likelihood of a normal distribution of unit variance around the outputs, up to a constant.

    Source: the convention of Cohen et al. 2021; torch's MSELoss, a mean over outputs too, is 2/C times this.
    """

    convex: ClassVar[bool] = True
    accepts: ClassVar[tuple[Targets, ...]] = ("classes", "values")

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        if task.targets == "classes":
            refuse_strange_classes(
                targets, task, "use `loss: {name: cross_entropy, ignore_index: ...}` to leave it out"
            )
            targets = functional.one_hot(targets, task.outputs)
        return targets.to(dtype)

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # sum, then scale: reduction="mean" is an op more in the backward pass and takes 2 microseconds longer
        return functional.mse_loss(outputs, targets, reduction="sum") * (0.5 / _rows(outputs))

    def weight(self, targets: torch.Tensor) -> float:
        return float(_rows(targets))

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.new_full(targets.shape[:1], _rows(targets[0]), dtype=torch.float64)

    def gradient(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dL/df_i = (f_i - y_i) / B"""
        f = outputs.detach()
        return self.mean(f, targets), (f - targets).mul_(1 / _rows(f))

    def gradients(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """f_i - y_i"""
        return outputs.detach() - targets

    def hvp(self, outputs: torch.Tensor, targets: torch.Tensor, tangents: torch.Tensor) -> torch.Tensor:
        """u_i / B"""
        return tangents / _rows(outputs)

    def sampled_gradients(
        self, outputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """f_i - y with y ~ N(f_i, 1): standard normal numbers."""
        uniform = torch.rand(outputs.shape, generator=generator, device=generator.device, dtype=torch.float64)
        # by the quantile function: one number draws one, so the draws do not depend on how examples are chunked, as
        # those of torch.randn do; the clamp keeps the one in 2^53 that is 0 from being minus infinity
        normal: torch.Tensor = torch.special.ndtri(uniform.clamp_(min=2**-54))
        return normal.to(outputs)


def _rows(tensor: torch.Tensor) -> int:
    """Rows of numbers in (..., C)."""
    return tensor.numel() // tensor.shape[-1]
