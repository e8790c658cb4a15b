"""A symmetric linear map known by its product with a vector: all that the spectral algorithms see of a landscape."""

from __future__ import annotations

from collections.abc import Callable

import torch


class LinearOperator:
    """A symmetric map on R^P, given by v -> A v; counts its products.

    `size` is P; `dtype` and `device` are those of the vectors it takes and returns. `gradients` is the price of one
    product in gradients over the same data, as far as it is known.
    """

    def __init__(
        self, size: int, matvec: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.products = 0
        self._matvec = matvec

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        """A v for v of shape (P,), or A V for V of shape (P, K), column by column.

        Columns go one at a time: on the CPU, products batched with vmap were never faster.
        """
        if vectors.shape[0] != self.size or vectors.ndim not in (1, 2):
            raise ValueError(f"the operator takes (P,) or (P, K) with P = {self.size}, not {tuple(vectors.shape)}")
        if vectors.ndim == 2:
            return torch.stack([self @ column for column in vectors.T], dim=1)
        self.products += 1
        return self._matvec(vectors)
