"""Cross-entropy of a softmax."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch.nn import functional

from lossgeo.errors import UsageError
from lossgeo.landscapes.losses import Loss, refuse_strange_classes
from lossgeo.landscapes.task import SHOWN, Targets, Task

Weight = Annotated[float, Field(gt=0, le=1e6)]

UNCOUNTED = -100  # what torch's own cross_entropy leaves out unless told otherwise


@final
class CrossEntropy(Loss):
    """The negative log-likelihood of the target class under a softmax of the outputs.

    L = -(1/W) sum_i w_i ln p_{i, y_i},  p_i = softmax(f_i),  W = sum_i w_i

    i runs over the examples, or over all their positions. w_i is the weight of class y_i, 1 without `class_weights`,
    and 0 where y_i is `ignore_index`.

    Source: the convention of torch's cross_entropy, whose mean divides by W too.
    """

    convex: ClassVar[bool] = True
    accepts: ClassVar[tuple[Targets, ...]] = ("classes",)

    ignore_index: int | None = Field(
        default=None, description="targets of this number do not count, such as padding's; null: all count"
    )
    class_weights: tuple[Weight, ...] | None = Field(
        default=None, min_length=1, description="a weight for every class; null: all weigh 1"
    )

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        if self.class_weights is not None and len(self.class_weights) != task.outputs:
            raise UsageError(
                f"loss.class_weights has {len(self.class_weights)} numbers, the data have {task.outputs} classes; give "
                "one for each"
            )
        if self.ignore_index is None:
            refuse_strange_classes(targets, task, "name it as `loss.ignore_index` if it should not count")
            return targets
        if task.labels:
            raise UsageError(
                f"loss.ignore_index: {self.ignore_index} is the number of a class, and the classes "
                f"{', '.join(map(str, task.labels[:SHOWN]))} are numbered anew from 0; choose with `dataset.classes`"
            )
        counted = targets != self.ignore_index
        if not counted.any():
            raise UsageError(f"every target is {self.ignore_index}, loss.ignore_index; none is left to count")
        refuse_strange_classes(targets[counted], task, f"loss.ignore_index leaves out {self.ignore_index} alone")
        return targets.where(counted, UNCOUNTED)

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        f, y = _flat(outputs, targets)
        if self._plain():
            return functional.cross_entropy(f, y)
        weights, total = self._weighed(f, y)
        return (functional.cross_entropy(f, y, reduction="none") * weights).sum() / total

    def weight(self, targets: torch.Tensor) -> float:
        if self._plain():
            return float(targets.numel())
        counts = torch.bincount(targets[targets >= 0]).tolist()
        return float(sum(n * w for n, w in zip(counts, self.class_weights or [1.0] * len(counts), strict=False)))

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        f, y = _flat(outputs, targets)
        costs = functional.cross_entropy(f, y, reduction="none")
        if not self._plain():
            costs = costs * self._weighed(f, y)[0]
        return costs.view(len(outputs), -1).sum(1)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        return self._of_targets(targets, torch.float64).reshape(len(targets), -1).sum(1)

    def gradient(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dL/df_i = (p_i - e_{y_i}) w_i / W"""
        f, y = _flat(outputs.detach(), targets)
        log_p = functional.log_softmax(f, 1)
        if self._plain():
            loss = functional.nll_loss(log_p, y)
            return loss, _like(_minus_one(log_p.exp_(), y).mul_(1 / len(y)), outputs)
        weights, total = self._weighed(f, y)
        loss = (functional.nll_loss(log_p, y, reduction="none") * weights).sum() / total
        slope = _minus_one(log_p.exp_(), y.clamp(min=0)).mul_((weights / total)[:, None])
        return loss, _like(slope, outputs)

    def gradients(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(p_i - e_{y_i}) w_i"""
        f, y = _flat(outputs.detach(), targets)
        slopes = _minus_one(functional.softmax(f, 1), y.clamp(min=0))
        if not self._plain():
            slopes.mul_(self._weighed(f, y)[0][:, None])
        return _like(slopes, outputs)

    def each_and_gradients(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, y = _flat(outputs.detach(), targets)
        # class by class: over rows as short as these, torch takes ten times as long
        log_p = functional.log_softmax(f.T.contiguous(), 0)
        counted = y.clamp(min=0)
        costs = -log_p.gather(0, counted[None])[0]
        slopes = _minus_one(log_p.exp_().T.contiguous(), counted)
        if not self._plain():
            weights = self._weighed(f, y)[0]
            costs, slopes = costs * weights, slopes.mul_(weights[:, None])
        return costs.view(len(outputs), -1).sum(1), _like(slopes, outputs)

    def hvp(self, outputs: torch.Tensor, targets: torch.Tensor, tangents: torch.Tensor) -> torch.Tensor:
        """(diag(p_i) - p_i p_i') u_i w_i / W"""
        f, y = _flat(outputs.detach(), targets)
        p, u = functional.softmax(f, 1), tangents.reshape(f.shape)
        bent = (u - (p * u).sum(1, keepdim=True)).mul_(p)
        if self._plain():
            return _like(bent.mul_(1 / len(y)), outputs)
        weights, total = self._weighed(f, y)
        return _like(bent.mul_((weights / total)[:, None]), outputs)

    def sampled_gradients(
        self, outputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """(p_i - e_y) sqrt(w_i) with y ~ p_i: E g_i g_i' = (diag(p_i) - p_i p_i') w_i"""
        f, y = _flat(outputs.detach(), targets)
        p = functional.softmax(f, 1)
        uniform = torch.rand(len(y), 1, generator=generator, device=generator.device, dtype=torch.float64)
        # the class whose interval of the cumulated p holds the number; rounding may leave a gap after the last one
        cumulated = p.cumsum(1, dtype=torch.promote_types(p.dtype, torch.float32))
        drawn = (cumulated <= uniform.to(cumulated)).sum(1).clamp_(max=p.shape[1] - 1)
        slopes = _minus_one(p, drawn)
        if not self._plain():
            slopes.mul_(self._weighed(f, y)[0].sqrt_()[:, None])
        return _like(slopes, outputs)

    # --- weights -----------------------------------------------------------------------------------------------------

    def _plain(self) -> bool:
        """Whether every target counts 1."""
        return self.ignore_index is None and self.class_weights is None

    def _of_targets(self, targets: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Every target's weight, like targets."""
        counted = targets >= 0
        if self.class_weights is None:
            return counted.to(dtype)
        return _tensor(self.class_weights, dtype, targets.device)[targets.clamp(min=0)] * counted

    def _weighed(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every target's weight and what to divide by: their sum, or 1 where no target counts, for 0/1 is 0."""
        weights = self._of_targets(targets, outputs.dtype)
        total = weights.sum()
        return weights, total + (total == 0)


@lru_cache(maxsize=16)  # a training step would otherwise copy the numbers to the device every time
def _tensor(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor(weights, dtype=dtype, device=device)


def _flat(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions as further examples: (B, T, C) and (B, T) become (BT, C) and (BT,)."""
    return (outputs, targets) if outputs.ndim == 2 else (outputs.flatten(0, -2), targets.flatten())


def _like(rows: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Back from (BT, C) to the shape of the outputs."""
    return rows if outputs.ndim == 2 else rows.view_as(outputs)


def _minus_one(p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """p_i - e_{y_i}, in place."""
    return p.scatter_add_(1, targets[:, None], p.new_full((len(p), 1), -1.0))
