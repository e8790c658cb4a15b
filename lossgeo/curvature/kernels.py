"""Layers in operations whose second derivatives torch has, and has right, in place of fused kernels.

Fused attention has no second derivative. Fused weight norm has a wrong one in torch 2.13, without an error: of a small
network .681 as the largest eigenvalue of the Hessian, where differences of gradients and this formula give .734.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def differentiable_kernels(weight_norm: bool) -> Iterator[None]:
    """torch's attention, and its weight norm where a model has one, in plain operations."""
    with sdpa_kernel(SDPBackend.MATH), _PlainWeightNorm() if weight_norm else nullcontext():
        yield


class _PlainWeightNorm(TorchFunctionMode):
    """w = g v / |v|, the norm over all dimensions but `dim`, or over all for -1; every other function as it is.

    Source: Salimans & Kingma 2016, "Weight normalization", equation 2.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is not torch._weight_norm:
            return function(*args, **(kwargs or {}))
        return _weight_norm(*args, **(kwargs or {}))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    over = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    return v * (g / v.square().sum(over, keepdim=True).sqrt())
