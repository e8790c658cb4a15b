"""Matrices whose spectrum is set, as operators; pairs of theirs, exact or not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from lossgeo.curvature.spectral.linear_operator import LinearOperator


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    """Random orthogonal columns (size, size)."""
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=stream(seed), dtype=torch.float64))
    return q


def matrix(spectrum: list[float] | np.ndarray, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with this spectrum and random eigenvectors."""
    q = rotation(len(spectrum), seed)
    return ((q * torch.tensor(np.array(spectrum, dtype=float))) @ q.T).to(dtype)


def operator(a: torch.Tensor, room: int | None = None) -> LinearOperator:
    return LinearOperator(a.shape[0], lambda v: a @ v, a.dtype, a.device, room=room)


def hessian_of(value: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor) -> LinearOperator:
    """The Hessian at theta (P,), by forward over reverse mode."""
    return operator(torch.func.hessian(value)(theta.detach()))


def largest(a: torch.Tensor, count: int, residual: float = 0.0, dtype: torch.dtype | None = None) -> SimpleNamespace:
    """The `count` largest eigenpairs of a matrix, their vectors turned until the residuals are about `residual`.

    The values are what a search would give for such vectors: those of v'Av, with no coupling from one to another.
    """
    values, vectors = torch.linalg.eigh(a.double())
    chosen, others = vectors[:, -count:], vectors[:, :-count]
    if residual:
        noise = others @ torch.randn(others.shape[1], count, generator=stream(1), dtype=torch.float64)
        angle = residual / float(values[-count:].mean())  # of a vector with the true one, when others are near zero
        chosen, _ = torch.linalg.qr(chosen + angle * noise / others.shape[1] ** 0.5)
    values, turn = torch.linalg.eigh(chosen.T @ a.double() @ chosen)
    found = (chosen @ turn).flip(1).T.contiguous()
    values = values.flip(0)
    residuals = torch.linalg.vector_norm(found @ a.double() - values[:, None] * found, dim=1)
    return SimpleNamespace(values=values.numpy(), residuals=residuals.numpy(), vectors=found.to(dtype or a.dtype))
