"""Traces and densities against an exact spectrum: `python -m tests.bench.bench_trace [runs]`.

The Hessian of workload a, an MLP 64-64-64-10 with tanh after 300 steps of SGD with momentum on digits, P = 8,970, whose
spectrum is known from a dense float64 matrix. For every method of `trace` at 12, 30, 60 and 120 products: the rms
relative error over runs, the share of its 95% intervals that hold the truth, and their half-width over the truth; then
the same with the ten largest eigenpairs known, and with all Ritz pairs that the search for these ten left behind (their
products not counted). For `density` at 80 steps and 10 vectors: the Wasserstein distance over the range, the largest
difference of the distribution functions as they are, and after both are smoothed by the kernel of Ghorbani et al.
Before that, on matrices whose spectrum is set: what stopping by an error does to intervals, and XTrace's own error.

The spectrum takes three minutes and is kept; after that 100 runs take eight minutes of one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtr, stdtrit
from torch.nn import functional

from lossgeo.curvature.spectral.intervals import FEWEST
from lossgeo.curvature.spectral.krylov import Krylov, combine, direction
from lossgeo.curvature.spectral.lanczos import Eigenpairs
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import Quadrature, density
from lossgeo.curvature.spectral.trace import TraceEstimate, trace
from tests.bench.curvature.truth import truth
from tests.bench.curvature.workloads import problem
from tests.support.spectra import matrix, operator

SET = {
    "outliers": np.array([9.0, 6.0, 4.0, 2.0, *np.linspace(-0.5, 1, 196)]),
    "flat": np.linspace(-0.5, 1, 200),
    "one eigenvalue": np.array([10.0, *np.full(199, 1e-6)]),
    "decaying": np.geomspace(1, 1e-8, 200),
}
BUDGETS = (12, 30, 60, 120)
KNOWN = 10
SEARCH = 27  # Lanczos steps after which the ten largest have residuals of 1e-3, as a rule
STEPS, VECTORS = 80, 10
DENSITIES = 10  # runs of `STEPS` steps at the most
FEW = 3  # steps that trace and squares need, with their errors


def hessian() -> LinearOperator:
    a = problem("a")
    module = a.copy()
    parameters = list(module.parameters())
    slopes = torch.autograd.grad(functional.cross_entropy(module(a.inputs), a.targets), parameters, create_graph=True)
    sizes = [p.numel() for p in parameters]

    def product(vector: torch.Tensor) -> torch.Tensor:
        along = [v.view(p.shape) for v, p in zip(vector.split(sizes), parameters, strict=True)]
        pieces = torch.autograd.grad(slopes, parameters, along, retain_graph=True)
        return torch.cat([piece.reshape(-1) for piece in pieces])

    return LinearOperator(sum(sizes), product, torch.float32, torch.device("cpu"))


def ritz(operator: LinearOperator, steps: int, keep: int, seed: int) -> Eigenpairs:
    """The `keep` largest Ritz pairs of that many Lanczos steps, with what `trace` and `density` want of them."""
    space = Krylov(operator, direction(operator, torch.Generator().manual_seed(seed)))
    for _ in range(steps):
        space.extend()
    values, weights = space.ritz()
    found = type("Found", (), {})()
    found.values, found.vectors = values[::-1][:keep].copy(), combine(weights[:, ::-1][:, :keep], space.basis)
    return found


def traces(operator: LinearOperator, exact: float, runs: int) -> None:
    known = ritz(operator, 80, KNOWN, 0)
    searched = [ritz(operator, SEARCH, SEARCH, seed) for seed in range(min(runs, 10))]

    def estimate(method: str, pairs: Callable[[int], Eigenpairs | None]) -> Callable[[int, int], TraceEstimate]:
        return lambda budget, seed: trace(
            operator, method, budget, 0.0, torch.Generator().manual_seed(1000 + seed), pairs(seed)
        )

    lines = {
        "hutchinson": estimate("hutchinson", lambda _: None),
        "hutch_plus_plus": estimate("hutch_plus_plus", lambda _: None),
        "xtrace": estimate("xtrace", lambda _: None),
        "deflated": estimate("deflated", lambda _: None),
        "deflated, ten known": estimate("deflated", lambda _: known),
        "deflated, all Ritz pairs": estimate("deflated", lambda seed: searched[seed % len(searched)]),
    }
    print(f"trace: rms relative error % | intervals that hold the truth % | their half-width %, {runs} runs")
    print(f"{'products':26}" + "".join(f"{budget:>22}" for budget in BUDGETS))
    for name, method in lines.items():
        cells = []
        for budget in BUDGETS:
            found = [method(budget, seed) for seed in range(runs)]
            assert all(f.products <= budget for f in found)
            error = np.array([f.value / exact - 1 for f in found])
            held = np.mean([f.low <= exact <= f.high for f in found])
            width = np.mean([f.high - f.low for f in found]) / 2 / exact
            cells.append(f"{100 * (error**2).mean() ** 0.5:5.2f} | {100 * held:3.0f} | {100 * width:5.2f}")
        print(f"{name:26}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def distances(found: Quadrature, spectrum: np.ndarray) -> tuple[float, float, float]:
    """Wasserstein over the range, sup distance, sup distance of the smoothed."""
    width = spectrum[-1] - spectrum[0]
    weight = found.weight / (found.vector[-1] + 1)
    order = np.argsort(found.node)
    nodes, steps = found.node[order], np.concatenate([[0], np.cumsum(weight[order])])
    at = np.sort(np.concatenate([spectrum, nodes]))

    def difference(side: str) -> np.ndarray:
        exact = np.searchsorted(spectrum, at, side=side) / len(spectrum)
        return np.abs(exact - steps[np.searchsorted(nodes, at, side=side)])

    right, left = difference("right"), difference("left")
    wasserstein = float((right[:-1] * np.diff(at)).sum() / width)
    sigma = np.sqrt(1e-5 * max(1.0, width))  # Ghorbani, Krishnan & Xiao 2019, their code
    grid = np.concatenate([np.linspace(at[0], at[-1], 500), np.linspace(-10 * sigma, 10 * sigma, 500)])
    apart = [ndtr((x - spectrum) / sigma).mean() - (weight * ndtr((x - found.node) / sigma)).sum() for x in grid]
    return wasserstein, float(max(right.max(), left.max())), float(np.abs(apart).max())


def densities(operator: LinearOperator, spectrum: np.ndarray, runs: int) -> None:
    known = ritz(operator, 80, KNOWN, 0)
    few = min(runs, DENSITIES)
    print(f"density, {STEPS} steps x {VECTORS} vectors: mean, largest of {few} runs")
    for name, pairs in (("no pairs known", None), ("ten known", known)):
        found = [density(operator, STEPS, VECTORS, torch.Generator().manual_seed(seed), pairs) for seed in range(few)]
        columns = np.array([distances(f, spectrum) for f in found]).T
        shown = zip(("Wasserstein / range", "sup distance", "smoothed sup distance"), columns, strict=True)
        print(f"{name:16}", "   ".join(f"{label} {c.mean():.2g}, {c.max():.2g}" for label, c in shown), flush=True)


def moments(operator: LinearOperator, spectrum: np.ndarray, runs: int) -> None:
    known = ritz(operator, 80, KNOWN, 0)
    print(f"its trace and squares, {FEW} steps are enough: rms relative error % | intervals that hold %, {runs} runs")
    for name, pairs in (("no pairs known", None), ("ten known", known)):
        found = [density(operator, FEW, VECTORS, torch.Generator().manual_seed(seed), pairs) for seed in range(runs)]
        for label, exact in (("trace", spectrum.sum()), ("squares", (spectrum**2).sum())):
            of = [getattr(f, label) for f in found]
            error = np.mean([(m.value / exact - 1) ** 2 for m in of]) ** 0.5
            held = np.mean([m.low <= exact <= m.high for m in of])
            print(f"{name:16} {label:8} {100 * error:.2g} | {100 * held:.0f}", flush=True)


def stopping() -> None:
    """What the error is taken from decides what stopping by it does to the interval: 400 runs, matrices of size 200."""
    print("95% intervals that hold the truth %, mean number of vectors, when the tolerance asks for 20; 400 runs")
    print("                      deviation of the values   of the components")
    for name, spectrum in SET.items():
        a = matrix(spectrum)
        exact = float(a.trace())
        tolerance = float(2 * ((a**2).sum() - (a.diagonal() ** 2).sum()) / 20) ** 0.5 / abs(exact)
        cells = []
        for method in (by_deviation, lambda o, t, g: trace(o, "hutchinson", 400, t, g)):
            found = [method(operator(a), tolerance, torch.Generator().manual_seed(seed)) for seed in range(400)]
            held = 100 * np.mean([f.low <= exact <= f.high for f in found])
            cells.append(f"{held:3.0f} | {np.mean([f.products for f in found]):4.1f}")
        print(f"{name:26}" + "".join(f"{cell:22}" for cell in cells), flush=True)


def by_deviation(of: LinearOperator, tolerance: float, generator: torch.Generator) -> TraceEstimate:
    """Hutchinson with the deviation of the values over sqrt(n) and Student's t, stopped by it."""
    values: list[float] = []
    while True:
        z = 2.0 * torch.randint(0, 2, (of.size,), generator=generator, dtype=torch.int8).to(of.dtype) - 1
        values.append(float(z @ (of @ z)))
        n = len(values)
        if n >= FEWEST:
            mean, stderr = float(np.mean(values)), float(np.std(values, ddof=1)) / n**0.5
            if stderr <= tolerance * abs(mean) or n == 400:
                half = float(stdtrit(n - 1, 0.975)) * stderr
                return TraceEstimate(mean, stderr, mean - half, mean + half, 0.0, 0.0, n, True, "deviation")


def of_xtrace() -> None:
    print("xtrace: rms error over the rms of its error estimates | intervals that hold the truth %, 400 runs")
    for name, spectrum in SET.items():
        a = matrix(spectrum)
        cells = []
        for budget in (8, 12, 20, 30, 60):
            found = [trace(operator(a), "xtrace", budget, 0.0, torch.Generator().manual_seed(s)) for s in range(400)]
            error = np.array([f.value - float(a.trace()) for f in found])
            ratio = ((error**2).mean() / np.mean([f.stderr**2 for f in found])) ** 0.5
            aside = stdtrit(budget // 2 - 1, 0.975) * np.array([f.stderr for f in found])  # which it does not print
            held = 100 * np.mean(np.abs(error) <= aside)
            cells.append(f"{budget}: {ratio:.2f} | {held:.0f}")
        print(f"{name:26}" + "".join(f"{cell:18}" for cell in cells), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    spectrum = truth(problem("a")).nodes
    operator = hessian()
    inside = [(np.abs(spectrum) < width).mean() for width in (1e-6, 1e-4, 1e-3)]
    print(f"P {len(spectrum)}, trace {spectrum.sum():.4g}, from {spectrum[0]:.4g} to {spectrum[-1]:.4g};", end=" ")
    print("share of eigenvalues within 1e-6, 1e-4, 1e-3 of zero: " + ", ".join(f"{x:.2f}" for x in inside))
    begin = time.perf_counter()
    stopping()
    of_xtrace()
    traces(operator, float(spectrum.sum()), runs)
    densities(operator, spectrum, runs)
    moments(operator, spectrum, 6 * runs)  # ten vectors of three steps are cheap, and so are worth a finer look
    print(f"{operator.products} products, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
