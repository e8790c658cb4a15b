"""The Hessian of a function in closed form, by its products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lossgeo.curvature.spectral.linear_operator import LinearOperator


def curvature(value: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor) -> LinearOperator:
    """The Hessian of value (P,) -> scalar at theta; a product is one backward pass through the kept gradient."""
    with torch.enable_grad():
        leaf = theta.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)

    def product(vector: torch.Tensor) -> torch.Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(vector)
        (image,) = torch.autograd.grad(gradient, leaf, vector, retain_graph=True, allow_unused=True)
        return torch.zeros_like(vector) if image is None else image

    return LinearOperator(len(theta), product, theta.dtype, theta.device)


def dense(value: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor) -> torch.Tensor:
    """The same as a matrix (P, P); costs P products."""
    return curvature(value, theta) @ torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
