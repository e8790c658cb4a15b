"""Two hundred random spectra against their dense truth: multiplicities, huge ends, clusters, kernels, one to five
parameters, zero. What is stated as converged, complete or exact is so, and what is not is within its stated error.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Ends, lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.trace import trace
from tests.support.spectra import matrix, stream

KINDS = ("few", "fourfold", "huge bottom", "cluster", "zero", "kernel", "halves", "huge top twice", "gaussian", "bulk")
EACH = 20
TOLERANCE = 1e-3


def drawn(kind: str, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed)
    size = int(draws.integers(1, 6)) if kind == "few" else int(draws.integers(20, 80))
    spectrum = {
        "few": lambda: draws.normal(size=size),
        "fourfold": lambda: np.repeat(draws.normal(size=size // 4), 4),
        "huge bottom": lambda: np.append(draws.uniform(-0.01, 0.01, size), -(10.0 ** draws.uniform(2, 6))),
        "cluster": lambda: np.append(draws.uniform(-0.5, 0.5, size), 1 + 1e-5 * draws.normal(size=5)),
        "zero": lambda: np.zeros(size),
        "kernel": lambda: np.append(np.zeros(size), draws.exponential(size=8)),
        "halves": lambda: np.round(2 * draws.normal(size=size)) / 2,
        "huge top twice": lambda: np.append(draws.normal(size=size), [10.0 ** draws.uniform(1, 5)] * 2),
        "gaussian": lambda: draws.normal(size=size),
        "bulk": lambda: np.append(draws.uniform(0, 1, size), draws.exponential(5.0, size=6)),
    }[kind]()
    return np.sort(spectrum)


def semidefinite(spectrum: np.ndarray, dtype: torch.dtype, seed: int) -> LinearOperator:
    """The matrix as an operator, which says that no eigenvalue is negative where that is so."""
    a = matrix(spectrum, dtype, seed)
    return LinearOperator(len(a), lambda v: a @ v, dtype, a.device, semidefinite=bool(spectrum[0] >= 0))


def found(spectrum: np.ndarray, dtype: torch.dtype, seed: int, top: int, bottom: int, complete: bool) -> Ends:
    of = semidefinite(spectrum, dtype, seed)
    start = direction(of, stream(seed))
    return lanczos(Krylov(of, start), top, bottom, TOLERANCE, 600, stream(seed + 1), complete=complete)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues(kind: str, dtype: torch.dtype) -> None:
    completed = 0
    for seed in range(EACH):
        spectrum = drawn(kind, seed)
        norm = float(np.abs(spectrum).max())
        rounding = 4 * torch.finfo(dtype).eps * norm  # of the matrix itself
        for top, bottom, complete in ((1, 1, False), (6, 4, False), (6, 4, True)):
            ends = found(spectrum, dtype, seed, top, bottom, complete)
            for pairs, truth in ((ends.top, spectrum[::-1]), (ends.bottom, spectrum)):
                # each is an eigenvalue
                nearest = np.abs(spectrum[:, None] - pairs.values).min(axis=0)
                assert (nearest <= pairs.residuals + rounding).all()
                assert (pairs.bounds <= TOLERANCE * pairs.scales)[pairs.converged].all()
                if not pairs.complete:
                    assert not complete
                    continue
                # and the one of its rank, but for others as near as the tolerance
                completed += 1
                wanted = truth[: len(pairs.values)]
                error = np.abs(pairs.values - wanted)
                assert (error <= TOLERANCE * np.abs(wanted) + pairs.bounds + rounding).all()
                small = (pairs.scales > np.abs(pairs.values)) & (np.abs(wanted) <= pairs.bounds)
                assert (error <= 2 * TOLERANCE * np.abs(wanted) + rounding)[pairs.converged & ~small].all()
                if dtype == torch.float64 and norm > 0:  # all that is not zero is found to the tolerance
                    assert pairs.converged[np.abs(wanted) > 1e-9 * norm].all()
    assert completed >= 2 * EACH


@pytest.mark.parametrize("vectors", [8, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_traces(kind: str, vectors: int) -> None:
    held = 0
    for seed in range(EACH):
        spectrum = drawn(kind, seed)
        estimate = trace(semidefinite(spectrum, torch.float64, seed), "auto", vectors, 0.01, stream(seed))
        slack = 1e-14 * float(np.abs(spectrum).sum())  # of the matrix itself
        within = estimate.low - slack <= spectrum.sum() <= estimate.high + slack
        held += within
        if len(spectrum) <= vectors:
            assert (estimate.method, estimate.stderr) == ("exact", 0.0)
            assert within
    assert held >= EACH - 4  # of 20 at 95%: five misses or more in 1 of 390 such tests


@pytest.mark.parametrize(("steps", "vectors"), [(30, 4), (10, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_densities(kind: str, steps: int, vectors: int) -> None:
    held = 0
    for seed in range(EACH):
        spectrum = drawn(kind, seed)
        of, generator = semidefinite(spectrum, torch.float64, seed), stream(seed)
        first = Krylov(of, direction(of, generator))
        known = lanczos(first, 10, 0, TOLERANCE, steps, generator).top.only_converged()
        estimate = density(of, steps, vectors, generator, known, first)
        slack = 1e-13 * float(np.abs(spectrum).sum())
        held += estimate.trace.low - slack <= spectrum.sum() <= estimate.trace.high + slack
        assert estimate.sums(np.ones(len(estimate.node))) == pytest.approx(1.0, abs=1e-12)
        inside = (estimate.node >= spectrum[0] - slack) & (estimate.node <= spectrum[-1] + slack)
        assert inside.all()
    assert held >= EACH - 4
