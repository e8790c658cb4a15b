"""hessian-eigenthings as a contestant: as it comes, and with its step count chosen by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hessian_eigenthings as he
import numpy as np
import torch
from torch import nn

from .contestant import Arranged, Found, Nodes
from .truth import truth
from .workloads import SEEDS, kept


class HessianEigenthings(Arranged):
    """Its default: twice as many Lanczos steps as eigenvalues are asked for, converged or not."""

    equal = True

    def _make(self) -> Callable[[], Any]:
        model, data = self.problem.copy(self.dtype), self.data
        loss = he.supervised_loss(nn.CrossEntropyLoss())

        def make() -> Any:
            return he.HessianOperator(model, data, loss)

        return make

    def product(self) -> Callable[[], object]:
        operator = self._make()()
        vector = torch.randn(operator.size, dtype=self.dtype, generator=torch.Generator().manual_seed(0))
        return lambda: operator @ vector

    def _steps(self, k: int, tolerance: float) -> int | None:
        return None

    def top(self, k: int, tolerance: float, seed: int) -> Callable[[], Found]:
        make, steps = self._make(), self._steps(k, tolerance)
        # beyond 50 steps its default returns copies of what has converged
        orthogonalize = None if steps is None else True

        def call() -> Found:
            found = he.lanczos(
                make(), k=k, max_iter=steps, tol=tolerance, reorthogonalize=orthogonalize, which="LA", seed=seed
            )
            return Found(found.eigenvalues.numpy(), found.iterations)

        return call

    def density(self, steps: int, vectors: int, seed: int) -> Callable[[], Nodes]:
        make = self._make()

        def call() -> Nodes:
            found = he.spectral_density(make(), num_runs=vectors, lanczos_steps=steps, seed=seed)
            return found.raw_eigenvalues.numpy().ravel(), found.raw_weights.numpy().ravel() / vectors

        return call

    def traces(self, products: int) -> dict[str, Callable[[int], float]]:
        operator = self._make()()

        def by(method: str) -> Callable[[int], float]:
            return lambda seed: float(he.trace(operator, num_matvecs=products, method=method, seed=seed).estimate)

        return {"Hutchinson": by("hutchinson"), "Hutch++": by("hutch++")}

    def _needed(self, k: int, tolerance: float) -> tuple[int, int]:
        """The fewest steps after which its own residuals are within the tolerance, and the true errors.

        For every seed that is measured; what finding them costs is not counted.
        """
        known = truth(self.problem)

        def runs() -> list[tuple[np.ndarray, np.ndarray]]:
            operator = self._make()()
            found = []
            for seed in range(SEEDS):
                start = torch.randn(operator.size, dtype=self.dtype, generator=torch.Generator().manual_seed(seed))
                run = he.lanczos_tridiagonal(operator, start, 80)
                found.append((run.alphas.double().numpy(), run.betas.double().numpy()))
            return found

        name = f"{self.problem.workload.name}-{self.problem.digest()}-eigenthings-{self.dtype}"
        by_residual, by_error = k, k
        for alpha, beta in kept(name, runs):
            first: dict[str, int] = {}
            for steps in range(k, len(beta) + 1):
                values, columns = np.linalg.eigh(
                    np.diag(alpha[:steps]) + np.diag(beta[: steps - 1], 1) + np.diag(beta[: steps - 1], -1)
                )
                top, last = values[::-1][:k], columns[-1, ::-1][:k]
                if (np.abs(last) * beta[steps - 1] < tolerance * np.abs(top)).all():
                    first.setdefault("residual", steps)
                if known.error(top) <= tolerance:
                    first.setdefault("error", steps)
            by_residual = max(by_residual, first["residual"])
            by_error = max(by_error, first["error"])
        return by_residual, by_error


class HessianEigenthingsTuned(HessianEigenthings):
    """Its step count chosen by hand: the fewest steps after which the residuals it reports are within tolerance."""

    def _steps(self, k: int, tolerance: float) -> int | None:
        return self._needed(k, tolerance)[0]


class HessianEigenthingsOracle(HessianEigenthings):
    """Its step count chosen by one who knows the eigenvalues: the fewest with every true error within tolerance."""

    def _steps(self, k: int, tolerance: float) -> int | None:
        return self._needed(k, tolerance)[1]
