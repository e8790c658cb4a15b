"""The linear autoencoder: a network with two layers whose critical points are all known, with their indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscapes.critical_point import CriticalPoint, Theory
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces._rows import rotation, rows_times

MOST = 100_000  # sets of eigenvectors

Variance = Annotated[float, Field(gt=0, le=1e6)]


@final
class LinearAutoencoder(Surface):
    """L(A, B) = 1/2 E |x - B A x|^2 = 1/2 sum_j l_j |(I - B A) q_j|^2; theta is A (hidden, inputs), then B, by rows.

    l_j and q_j are the eigenvalues and eigenvectors of the covariance of x. Critical points are, up to A -> G A and
    B -> B G^-1, the sets I of at most `hidden` eigenvectors that are kept:

        L = 1/2 sum_{j not in I} l_j
        index = #{i in I, j not in I: l_j > l_i} + (hidden - |I|) (inputs - |I|)
        zero eigenvalues: |I|^2 + 2 |I| (hidden - |I|)

    for distinct l_j; the minimum keeps the largest ones, and there is no other.

    Source: Baldi & Hornik 1989; for the index, the Hessian splits into 2 x 2 blocks [[l_i, -l_j], [-l_j, l_j]], each
    with a negative eigenvalue where l_j > l_i, and a pair +- l_j for every unused unit and every j that is left out.
    """

    inputs: int = Field(default=16, ge=1, le=1000, description="dimension of x")
    hidden: int = Field(default=4, ge=1, le=1000, description="units in between")
    covariance: tuple[Variance, ...] | None = Field(
        default=None, min_length=1, description="eigenvalues of the covariance, all different; null: 1, 2, ..., inputs"
    )
    rotation: int | None = Field(
        default=None, ge=0, description="seed of a random rotation of its eigenvectors; null: the coordinate axes"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden > self.inputs:
            raise ValueError(f"`hidden` {self.hidden} is more than `inputs` {self.inputs}: nothing is left to find")
        if self.covariance is not None and len(self.covariance) != self.inputs:
            raise ValueError(f"`covariance` has {len(self.covariance)} eigenvalues for {self.inputs} inputs")
        if self.covariance is not None and len(set(self.covariance)) < len(self.covariance):
            raise ValueError("`covariance` has an eigenvalue twice: critical points then come in families")
        return self

    @property
    def size(self) -> int:
        return 2 * self.inputs * self.hidden

    @cached_property
    def _variances(self) -> torch.Tensor:
        return torch.tensor(self.covariance or range(1, self.inputs + 1), dtype=torch.float64)

    @cached_property
    def _axes(self) -> torch.Tensor:
        identity = torch.eye(self.inputs, dtype=torch.float64)
        return identity if self.rotation is None else rotation(self.rotation, self.inputs)

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        half = self.inputs * self.hidden
        encoder = theta[..., :half].reshape(*theta.shape[:-1], self.hidden, self.inputs)
        decoder = theta[..., half:].reshape(*theta.shape[:-1], self.inputs, self.hidden)
        # B A as a sum over hidden units, by elements
        product = (decoder.unsqueeze(-2) * encoder.transpose(-1, -2).unsqueeze(-3)).sum(-1)
        missed = torch.eye(self.inputs).to(theta) - product
        along = missed if self.rotation is None else rows_times(missed, self._axes.to(theta))
        return 0.5 * (self._variances.to(theta) * along.square()).flatten(-2).sum(-1)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A Gaussian of deviation 0.7 / sqrt(inputs)."""
        normal = torch.randn(self.size, generator=generator, dtype=torch.float64)
        start: torch.Tensor = 0.7 * normal / self.inputs**0.5
        return start

    def invariants(self, theta: torch.Tensor) -> torch.Tensor:
        """B A, which A -> G A, B -> B G^-1 leaves."""
        half = self.inputs * self.hidden
        return (theta[half:].view(self.inputs, self.hidden) @ theta[:half].view(self.hidden, self.inputs)).flatten()

    def critical_points(self) -> Iterator[CriticalPoint]:
        """One of each family, by the number of eigenvectors kept: A = [Q_I' on top of zeros], B = A'."""
        for chosen, loss, index in self._kept():
            encoder = torch.zeros(self.hidden, self.inputs, dtype=torch.float64)
            encoder[: len(chosen)] = self._axes[:, list(chosen)].T
            zeros = len(chosen) ** 2 + 2 * len(chosen) * (self.hidden - len(chosen))
            yield CriticalPoint(torch.cat([encoder.flatten(), encoder.T.flatten()]), loss, index, zeros)

    def theory(self, loss: float, index: float) -> Theory | None:
        """The known point of the nearest loss, and of several of one loss that of the nearest index."""
        if self._levels is None:
            return None
        within = min(abs(level.loss - loss) for level in self._levels) + 1e-12 * self._levels[0].loss
        alike = [level for level in self._levels if abs(level.loss - loss) <= within]
        return min(alike, key=lambda level: abs(level.index - index))

    @cached_property
    def _levels(self) -> list[Theory] | None:
        """Losses and indices of all sets, the empty one first; None where these are too many to go through."""
        if sum(math.comb(self.inputs, kept) for kept in range(self.hidden + 1)) > MOST:
            return None
        return [Theory(loss, index) for _, loss, index in self._kept()]

    def _kept(self) -> Iterator[tuple[tuple[int, ...], float, int]]:
        """Every set of eigenvectors that may be kept, with loss and index."""
        variances = self._variances.tolist()
        for kept in range(self.hidden + 1):
            for chosen in itertools.combinations(range(self.inputs), kept):
                rest = [j for j in range(self.inputs) if j not in chosen]
                better = sum(variances[j] > variances[i] for i in chosen for j in rest)
                index = better + (self.hidden - kept) * len(rest)
                yield chosen, 0.5 * sum(variances[j] for j in rest), index
