"""Linear algebra on points that stand one a row, such that a row's result does not depend on the rows beside it.

A matrix product promises no such thing: for another number of rows it may take another kernel and add in another order.
"""

from __future__ import annotations

import torch

from lossgeo.randomness import generator


def rows_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """rows @ matrix, (..., P) and (P, Q) -> (..., Q), as P multiply-adds of elements."""
    total = rows[..., :1] * matrix[0]
    for number in range(1, len(matrix)):
        total = torch.addcmul(total, rows[..., number : number + 1], matrix[number])
    return total


def rotation(seed: int, size: int) -> torch.Tensor:
    """An orthogonal matrix (P, P), float64, drawn from the uniform law by the QR factors of a Gaussian one.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups", section 5.
    """
    gaussian = torch.randn(size, size, generator=generator(seed, "rotation"), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    drawn: torch.Tensor = q * r.diagonal().sign()
    return drawn
