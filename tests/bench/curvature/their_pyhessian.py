"""PyHessian as a contestant, with the one repair without which its density raises on a torch of today."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyhessian
import torch
from pyhessian.utils import normalization
from torch import nn

from .contestant import Contestant, Found, Nodes

BATCH = 200  # what its own demo takes


class PyHessian(Contestant):
    """As its README shows: a loader's worth of batches, or a single batch whose gradient keeps its graph."""

    loader = True

    def _make(self) -> Callable[[int], Any]:
        model = self.problem.copy(self.dtype)
        data = {"dataloader": self.batches(BATCH)} if self.loader else {"data": self.whole}

        def make(seed: int) -> Any:
            torch.manual_seed(seed)
            return _CountedPyHessian(model, nn.CrossEntropyLoss(), cuda=False, **data)

        return make

    def product(self) -> Callable[[], object]:
        with _defaults(self.dtype):
            made = self._make()(0)
            vector = normalization([torch.randn_like(p) for p in made.params])
        if self.loader:
            return lambda: made.dataloader_hv_product(vector)
        return lambda: _PYHESSIAN.hessian_vector_product(made.gradsH, made.params, vector)

    def top(self, k: int, tolerance: float, seed: int) -> Callable[[], Found]:
        make = self._make()

        def call() -> Found:
            with _defaults(self.dtype):
                made = make(seed)
                values, _ = made.eigenvalues(tol=tolerance, top_n=k)
            return Found(np.array(values), made.products)

        return call

    def density(self, steps: int, vectors: int, seed: int) -> Callable[[], Nodes]:
        make = self._make()

        def call() -> Nodes:
            with _defaults(self.dtype):
                nodes, weights = make(seed).density(iter=steps, n_v=vectors)
            return np.concatenate(nodes), np.concatenate(weights) / vectors

        return call

    def traces(self, products: int) -> dict[str, Callable[[int], float]]:
        with _defaults(self.dtype):
            made = self._make()(0)

        def estimate(seed: int) -> float:
            torch.manual_seed(seed)
            return float(np.mean(made.trace(maxIter=products, tol=0)))

        return {"Hutchinson": estimate}


class PyHessianSingle(PyHessian):
    loader = False


@contextlib.contextmanager
def _defaults(dtype: torch.dtype) -> Iterator[None]:
    """PyHessian makes its vectors in torch's default precision, and torch warns that it keeps a graph in .grad."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


_PYHESSIAN: Any = sys.modules["pyhessian.hessian"]


class _CountedPyHessian(pyhessian.hessian):
    """It counts products: in loader mode by its method, else by the one orthogonalization that goes with each."""

    products = 0

    def dataloader_hv_product(self, v: Any) -> Any:
        self.products += 1
        return super().dataloader_hv_product(v)

    def eigenvalues(self, maxIter: int = 100, tol: float = 1e-3, top_n: int = 1) -> Any:
        if self.full_dataset:
            return super().eigenvalues(maxIter, tol, top_n)
        plain = _PYHESSIAN.hessian_vector_product

        def counted(*arguments: Any) -> Any:
            self.products += 1
            return plain(*arguments)

        _PYHESSIAN.hessian_vector_product = counted
        try:
            return super().eigenvalues(maxIter, tol, top_n)
        finally:
            _PYHESSIAN.hessian_vector_product = plain


def _eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """torch.eig, which torch no longer has, for the symmetric matrices that PyHessian 0.1 gives it.

    The one change that is made to a library here: without it `density` raises, as it does for everybody.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


torch.eig = _eig
