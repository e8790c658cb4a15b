"""curvlinops as a contestant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import curvlinops
import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from .contestant import Arranged, Found, Nodes


class _CountedCurvlinops(curvlinops.HessianLinearOperator):
    products = 0

    def _matmat(self, X: list[torch.Tensor]) -> list[torch.Tensor]:
        self.products += X[0].shape[-1]
        return super()._matmat(X)


class Curvlinops(Arranged):
    """With SciPy's eigsh, as its documentation recommends; its check that model and data are repeatable included."""

    def _make(self) -> Callable[[], Any]:
        model = self.problem.copy(self.dtype)
        data = self.data

        def make() -> Any:
            operator = _CountedCurvlinops(model, nn.CrossEntropyLoss(), list(model.parameters()), data)
            operator.products = 0  # the check's are not the solver's
            return operator

        return make

    def product(self) -> Callable[[], object]:
        operator = self._make()()
        vector = torch.randn(operator.shape[0], dtype=self.dtype, generator=torch.Generator().manual_seed(0))
        return lambda: operator @ vector

    def top(self, k: int, tolerance: float, seed: int) -> Callable[[], Found]:
        make = self._make()
        start = np.random.default_rng(seed).standard_normal(self.problem.size)

        def call() -> Found:
            operator = make()
            values, _ = eigsh(operator.to_scipy(), k=k, which="LA", tol=tolerance, v0=start)
            return Found(values[::-1], operator.products)

        return call

    def density(self, steps: int, vectors: int, seed: int) -> Callable[[], Nodes]:
        make = self._make()

        def call() -> Nodes:
            torch.manual_seed(seed)
            cached = curvlinops.LanczosApproximateSpectrumCached(make(), steps)
            cached.approximate_spectrum(num_repeats=vectors)
            # the nodes beneath its smooth curve, whose width would count against it
            runs = [(values.numpy(), columns[0].numpy() ** 2) for values, columns in cached._lanczos_iters]
            return np.concatenate([v for v, _ in runs]), np.concatenate([w for _, w in runs]) / vectors

        return call

    def traces(self, products: int) -> dict[str, Callable[[int], float]]:
        operator = self._make()()

        def seeded(estimator: Callable[..., torch.Tensor]) -> Callable[[int], float]:
            def estimate(seed: int) -> float:
                torch.manual_seed(seed)
                return float(estimator(operator, products))

            return estimate

        return {
            "Hutchinson": seeded(curvlinops.hutchinson_trace),
            "Hutch++": seeded(curvlinops.hutchpp_trace),
            "XTrace": seeded(curvlinops.xtrace),
        }
