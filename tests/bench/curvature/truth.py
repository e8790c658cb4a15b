"""What the contestants' numbers are compared with, by routes that share nothing with any of them but torch's autograd.

Everything here is made once on a machine; all of it takes about ten minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.sparse import linalg as sparse
from torch import nn
from torch.nn import functional

from .workloads import Problem, kept

DENSE = 10_000  # parameters up to which every eigenvalue is known
LONG = (120, 24)  # steps and vectors of the density that stands for the truth where P is larger
HIGHEST = 10


@dataclass(frozen=True)
class Truth:
    """What is known about the Hessian at the trained point."""

    top: np.ndarray  # (10,) the largest eigenvalues, descending
    bottom: float
    nodes: np.ndarray  # of the spectral density, with their weights
    weights: np.ndarray
    trace: float

    def error(self, values: np.ndarray) -> float:
        """The largest relative error among the first values, each compared with the one of its rank."""
        wanted = self.top[: len(values)]
        return float(np.abs(np.sort(values)[::-1] / wanted - 1).max())


def truth(problem: Problem) -> Truth:
    """Every eigenvalue by a dense float64 Hessian up to 10,000 parameters, else long float64 runs (see `_top`)."""
    name = f"{problem.workload.name}-{problem.workload.examples}-{problem.digest()}"
    if problem.size <= DENSE:
        spectrum = kept(f"{name}-spectrum", lambda: _spectrum(problem))
        even = np.full(len(spectrum), 1 / len(spectrum))
        return Truth(spectrum[::-1][:HIGHEST], float(spectrum[0]), spectrum, even, float(spectrum.sum()))
    top, bottom = kept(f"{name}-top", lambda: _top(problem))
    steps, vectors = LONG
    nodes, weights = kept(f"{name}-density-{steps}-{vectors}", lambda: _density(problem, steps, vectors))
    trace = kept(f"{name}-trace", lambda: _trace(problem))
    return Truth(top, bottom, nodes, weights, trace)


def _product(problem: Problem, dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """v -> H v over all examples in one piece, by double backward."""
    module = problem.copy(dtype)
    parameters = list(module.parameters())
    loss = functional.cross_entropy(module(problem.inputs.to(dtype)), problem.targets)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([s.reshape(-1) for s in slopes])

    def product(vector: np.ndarray) -> np.ndarray:
        along = torch.as_tensor(vector, dtype=dtype).reshape(-1)
        pieces = torch.autograd.grad(flat, parameters, along, retain_graph=True)
        return torch.cat([p.reshape(-1) for p in pieces]).double().numpy()

    return product


def _spectrum(problem: Problem) -> np.ndarray:
    product, size = _product(problem, torch.float64), problem.size
    dense = np.empty((size, size))
    for row in range(size):
        unit = np.zeros(size)
        unit[row] = 1.0
        dense[row] = product(unit)
    return scipy.linalg.eigvalsh((dense + dense.T) / 2, overwrite_a=True, check_finite=False)


def _top(problem: Problem) -> tuple[np.ndarray, float]:
    """ARPACK in float64 at a tolerance of 1e-9."""
    size = problem.size
    operator = sparse.LinearOperator((size, size), matvec=_product(problem, torch.float64), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    top = sparse.eigsh(operator, HIGHEST, which="LA", tol=1e-9, v0=start, ncv=40, return_eigenvectors=False)
    bottom = sparse.eigsh(operator, 1, which="SA", tol=1e-3, v0=start, ncv=40, return_eigenvectors=False)
    return np.sort(top)[::-1], float(bottom[0])


def _density(problem: Problem, steps: int, vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Stochastic Lanczos quadrature: products in float32, the rest in float64 with two orthogonalizations a step."""
    product, size = _product(problem, torch.float32), problem.size
    drawn = np.random.default_rng(1)
    nodes, weights = [], []
    for _ in range(vectors):
        basis, alpha, beta = np.empty((steps, size)), np.empty(steps), np.empty(steps)
        vector = drawn.standard_normal(size)
        for step in range(steps):
            basis[step] = vector / np.linalg.norm(vector)
            vector = product(basis[step])
            alpha[step] = basis[step] @ vector
            for _ in range(2):
                vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
            beta[step] = np.linalg.norm(vector)
        values, columns = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
        nodes.append(values)
        weights.append(columns[0] ** 2 / vectors)
    return np.concatenate(nodes), np.concatenate(weights)


def _trace(problem: Problem) -> float:
    """tr H = tr G, the Gauss-Newton matrix, exactly, from every example's Jacobian.

    A network of ReLUs is piecewise linear in any single weight, so the diagonals of H and G are the same. An example
    with Jacobian J and probabilities p adds tr J'(diag p - p p')J = sum_c p_c |J_c|^2 - |sum_c p_c J_c|^2.
    """
    module = problem.copy(torch.float64)
    assert not any(isinstance(m, nn.Tanh) for m in module.modules())
    named = {name: p.detach() for name, p in module.named_parameters()}

    def outputs(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, parameters, (x[None],))[0]

    jacobian = torch.func.jacrev(outputs)
    total = 0.0
    for x in problem.inputs.double():
        with torch.no_grad():
            p = outputs(named, x).softmax(0)
        for rows in jacobian(named, x).values():
            flat = rows.reshape(len(p), -1)
            total += float((p * flat.square().sum(1)).sum() - (p @ flat).square().sum())
    return total / len(problem.targets)
