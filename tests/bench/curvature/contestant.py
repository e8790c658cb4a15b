"""What is asked of every library, so that all of them can be measured in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from .workloads import Problem, seconds


class Found(NamedTuple):
    """The largest eigenvalues that somebody found, and the products it took."""

    values: np.ndarray
    products: int


Nodes = tuple[np.ndarray, np.ndarray]  # and their weights, which sum to 1


class Contestant(ABC):
    """A library on a problem, used as its documentation shows, with its own defaults.

    The methods prepare what a user has anyway, a model and data; what they return is timed. It builds the operator too.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float32) -> None:
        self.problem = problem
        self.dtype = dtype

    @property
    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.problem.inputs.to(self.dtype), self.problem.targets

    def batches(self, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs, targets = self.whole
        return list(zip(inputs.split(batch), targets.split(batch), strict=True))

    @abstractmethod
    def product(self) -> Callable[[], object]:
        """One product with a fixed vector, everything that is done once being done."""

    @abstractmethod
    def top(self, k: int, tolerance: float, seed: int) -> Callable[[], Found]:
        """The k largest eigenvalues."""

    @abstractmethod
    def density(self, steps: int, vectors: int, seed: int) -> Callable[[], Nodes]:
        """The spectral density as nodes and weights."""

    @abstractmethod
    def traces(self, products: int) -> dict[str, Callable[[int], float]]:
        """Estimates of the trace by seed, at that many products each."""


class Arranged(Contestant):
    """A library that may be given the data in one batch or in several: it gets the faster way."""

    equal = False  # whether batches have to be of one size for its mean to be right

    @cached_property
    def batch(self) -> int:
        examples, chunk = len(self.problem.targets), self.problem.workload.chunk
        if chunk >= examples or (self.equal and examples % chunk):
            return examples
        times = {}
        for batch in (examples, chunk):
            self.__dict__["batch"] = batch
            product = self.product()
            product()
            times[batch] = median(seconds(product) for _ in range(3))
        return min(times, key=lambda b: times[b])

    @property
    def data(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.batches(self.batch)
