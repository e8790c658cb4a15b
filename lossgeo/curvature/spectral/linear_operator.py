"""A symmetric linear map known by its product with a vector: all that the spectral algorithms see of a landscape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from scipy.special import ndtr, stdtrit

GRAIN = 32.0  # eps in the rounding of a product, at the least


class Contributions(NamedTuple):
    """What each of M examples adds to quadratic forms v'Av of an operator that is a weighted mean over N of them.

    Where M < N the forms are those of the mean over the M alone.
    """

    forms: torch.Tensor  # (K, M) float64; the sum over the examples is v'Av
    shares: torch.Tensor  # (M,) float64, each example's share of the mean; they sum to 1
    examples: int  # N

    def stderr(self, left: float = 1.0) -> torch.Tensor:
        """The standard error (K,) of v'Av over N examples as an estimate for the population that they were drawn from.

        sqrt( left  M / N  M / (M - 1) sum_i (f_i - s_i sum_j f_j)^2 ), the ratio estimator's; with equal shares the
        deviation of the examples' values over sqrt(N). `left` is the share of the population that is not among the N:
        1 where that has no end, and 0 where nothing is left to be uncertain about. Infinite for one example.
        Source: Cochran 1977, Sampling Techniques, equation 6.13, with the correction for finite populations in 2.20.
        """
        m = len(self.shares)
        if m < 2:
            return self.forms.new_full((len(self.forms),), float("inf"))
        rest = self.forms - self.shares * self.forms.sum(1, keepdim=True)
        return (left * rest.square().sum(1) * m / (m - 1) * m / self.examples).sqrt()

    def aside(self, left: float = 1.0, sigmas: float = 1.96) -> torch.Tensor:
        """Half the width (K,) of an interval: `sigmas` standard errors for many examples, and Student's for few."""
        freedom = max(len(self.shares) - 1, 1)
        return float(stdtrit(freedom, ndtr(sigmas))) * self.stderr(left)


class Sampling(Protocol):
    """The standard error of quadratic forms v'Av over random draws that A itself is made of."""

    def __call__(self, vectors: torch.Tensor, sums: torch.Tensor | None = None) -> torch.Tensor:
        """Of the forms (K,) of vectors (K, P); or, with `sums` (J, K), of J sums of them."""


class LinearOperator:
    """A symmetric map on R^P, given by v -> A v. It counts what it costs: `products` so far, and their `seconds`.

    size, dtype, device  P, and those of the vectors it takes and returns
    contributions        for vectors (K, P), what each example adds to every v'Av; None where A is no mean over examples
    sampling             the standard error of quadratic forms over A's own random draws; None: it has none
    semidefinite         no eigenvalue is negative
    error                of a product, over the operator's norm, beside what rounding makes of it; for approximate ones
    room                 how many vectors (P,) may be held at once beside what A itself holds; None: no limit is set
    note                 how the products are made, for the record
    """

    def __init__(
        self,
        size: int,
        matvec: Callable[[torch.Tensor], torch.Tensor],
        dtype: torch.dtype,
        device: torch.device,
        contributions: Callable[[torch.Tensor], Contributions] | None = None,
        sampling: Sampling | None = None,
        room: int | None = None,
        note: str = "",
        semidefinite: bool = False,
        error: float = 0.0,
    ) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.contributions = contributions
        self.sampling = sampling
        self.room = room
        self.note = note
        self.semidefinite = semidefinite
        self.error = error
        self.products = 0
        self.seconds = 0.0
        self._matvec = matvec

    def rounding(self, size: float) -> float:
        """What a product of that size, at the most, may be off by without showing it by an asymmetry.

        Of float32 products with Ritz vectors, by operators of MLPs on digits after 0 to 4,000 steps, the error was 0.6
        to 10 eps of the norm where the loss was above 1e-2. Below it, softmax and target cancel. Hessian and
        Gauss-Newton matrix were off by up to 200 eps, 1.5 to 6 times the largest asymmetry that 30 steps had seen.
        Covariances and sampled Fishers, which have no such asymmetry, were off by up to 29.
        """
        return (GRAIN * torch.finfo(self.dtype).eps + self.error) * size

    def dense(self) -> torch.Tensor:
        """The matrix (P, P), as symmetric as a matrix of floating-point numbers is; costs P products."""
        columns = self.columns()
        return (columns + columns.T) / 2

    def columns(self) -> torch.Tensor:
        """The products with the unit vectors, (P, P), as they come; costs P products."""
        return self @ torch.eye(self.size, dtype=self.dtype, device=self.device)

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        """A v for v of shape (P,), or A V for V of shape (P, K), column by column.

        Columns go one at a time: on the CPU, products batched with vmap were never faster.
        """
        if vectors.shape[0] != self.size or vectors.ndim not in (1, 2):
            raise ValueError(f"the operator takes (P,) or (P, K) with P = {self.size}, not {tuple(vectors.shape)}")
        if vectors.ndim == 2:
            return torch.stack([self @ column for column in vectors.T], dim=1)
        begin = time.perf_counter()
        product = self._matvec(vectors)
        self.products += 1
        self.seconds += time.perf_counter() - begin
        return product
