"""When Lanczos stops, and whether it is right by then: `python -m tests.bench.bench_stopping [runs]`, a few minutes.

Dense spectra of small networks on digits (P of 610 to 1,210, tanh and relu, cross-entropy and half the squared error,
with and without momentum, after 0, 30, 300 and 1,000 steps), `runs` start vectors each. Lanczos runs on the diagonal
matrix, where a Gaussian start has the same law. For some numbers of top and bottom values and tolerances: the wrong
runs, where any value is off by more than the tolerance times its true value, and the mean number of products, of the
rule, of the plain residual rule, and of the oracle, which stops at the first step from which on all values are within
the tolerance.

Then the same for warm starts: Hessians 10 steps apart, each from what was found at the one before, against cold ones.
The seeds are not those with which the rule was chosen.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Eigenpairs, Ends, lanczos, warm_start
from lossgeo.curvature.spectral.linear_operator import LinearOperator

SEED = 900
NETWORKS = [(64, 8, 10), (64, 16, 10), (64, 12, 12, 10)]
KINDS = list(itertools.product(("tanh", "relu"), ("cross-entropy", "mse"), (0.0, 0.9)))
LR = {("cross-entropy", 0.0): 0.1, ("cross-entropy", 0.9): 0.05, ("mse", 0.0): 0.1, ("mse", 0.9): 0.03}
STEPS = (0, 30, 300, 1000)
WARM = tuple(itertools.chain(range(100, 140, 10), range(400, 440, 10)))  # two sequences of four Hessians
BATCH, EXAMPLES = 32, 512  # of a step; of a Hessian
CELLS = [(k, bottom, tol) for k, bottom in ((1, 0), (5, 0), (10, 0), (1, 1), (5, 1)) for tol in (1e-2, 1e-3, 1e-6)]
WARM_CELLS = [(k, tolerance) for k in (1, 5) for tolerance in (1e-2, 1e-3)]
LONGEST = 120  # products of a run; one in which the oracle takes more is left out


def hessians(
    widths: tuple[int, ...], activation: str, loss: str, momentum: float, steps: tuple[int, ...], seed: int
) -> Iterator[torch.Tensor]:
    """The dense Hessians (P, P) of a network at these steps of its training."""
    drawn = torch.Generator().manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=drawn)
    inputs, targets = torch.from_numpy(images / 16)[order], torch.from_numpy(labels)[order]
    shapes = list(itertools.pairwise(widths))
    pieces = [(torch.rand(m * n + n, generator=drawn, dtype=torch.float64) * 2 - 1) / m**0.5 for m, n in shapes]
    theta, velocity = torch.cat(pieces), torch.tensor(0.0, dtype=torch.float64)

    def mean(theta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden = inputs[rows]
        for layer, (piece, (m, n)) in enumerate(zip(theta.split([m * n + n for m, n in shapes]), shapes, strict=True)):
            hidden = hidden @ piece[: m * n].view(m, n) + piece[m * n :]
            if layer < len(shapes) - 1:
                hidden = torch.tanh(hidden) if activation == "tanh" else torch.relu(hidden)
        if loss == "cross-entropy":
            return functional.cross_entropy(hidden, targets[rows])
        return 0.5 * (hidden - functional.one_hot(targets[rows], 10)).square().sum(1).mean()

    gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.func.grad(mean)
    for step in range(steps[-1] + 1):
        if step in steps:
            dense = torch.func.jacfwd(gradient)(theta, torch.arange(EXAMPLES))
            yield (dense + dense.T) / 2
        velocity = momentum * velocity + gradient(theta, torch.randint(len(labels), (BATCH,), generator=drawn))
        theta = theta - LR[loss, momentum] * velocity


def diagonal(spectrum: np.ndarray) -> LinearOperator:
    entries = torch.from_numpy(spectrum)
    return LinearOperator(len(entries), lambda v: entries * v, entries.dtype, entries.device)


def ends(values: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """The wanted ones of ascending values."""
    return np.concatenate([values[len(values) - top :], values[:bottom]])


def wrong(found: Ends, spectrum: np.ndarray, tolerance: float) -> bool:
    values = np.concatenate([found.top.values[::-1], found.bottom.values])
    return off(values, spectrum, len(found.top.values), len(found.bottom.values), tolerance)


def off(values: np.ndarray, spectrum: np.ndarray, top: int, bottom: int, tolerance: float) -> bool:
    truth = ends(spectrum, top, bottom)
    return bool((np.abs(values - truth) > tolerance * np.abs(truth)).any())


def plain_and_oracle(
    steps: list[tuple[np.ndarray, np.ndarray]], spectrum: np.ndarray, top: int, bottom: int, tolerance: float
) -> tuple[int, int, bool]:
    """Products of the residual rule and of the oracle, and whether the residual rule is wrong."""
    plain, good, mistaken = 0, len(steps) + 1, False
    for products, (ritz, errors) in enumerate(steps[top + bottom - 1 :], start=top + bottom):
        values, residuals = ends(ritz, top, bottom), ends(errors, top, bottom)
        failed = off(values, spectrum, top, bottom, tolerance)
        if not plain and (residuals <= tolerance * np.abs(values)).all():
            plain, mistaken = products, failed
        good = len(steps) + 1 if failed else min(good, products)
    return plain or len(steps), good, mistaken


def cold(runs: int) -> None:
    results: dict[tuple[int, int, float], list[tuple[float, ...]]] = {cell: [] for cell in CELLS}
    generator = torch.Generator().manual_seed(SEED)
    sizes = set()
    for number, (widths, kind) in enumerate(itertools.product(NETWORKS, KINDS)):
        for dense in hessians(widths, *kind, STEPS, SEED + number):
            spectrum = torch.linalg.eigvalsh(dense).numpy()
            sizes.add(len(spectrum))
            for _ in range(runs):
                operator = diagonal(spectrum)
                start = direction(operator, generator)
                long = Krylov(operator, start)
                steps = []
                while long.steps < LONGEST and not long.invariant:
                    long.extend()
                    values, weights = long.ritz()
                    steps.append((values, long.beta[-1] * np.abs(weights[-1])))
                for top, bottom, tolerance in CELLS:
                    plain, oracle, mistaken = plain_and_oracle(steps, spectrum, top, bottom, tolerance)
                    if oracle <= LONGEST:
                        found = lanczos(Krylov(operator, start), top, bottom, tolerance, 2 * LONGEST, generator)
                        mine = wrong(found, spectrum, tolerance)
                        results[top, bottom, tolerance].append((mine, mistaken, found.products, plain, oracle))
    print(f"P {min(sizes)} to {max(sizes)}, {len(NETWORKS) * len(KINDS) * len(STEPS)} spectra, {runs} runs each")
    print("top bottom tolerance   runs  wrong (plain)   products (plain, oracle)   over oracle (plain)")
    for (top, bottom, tolerance), rows in results.items():
        mine, mistaken, products, plain, oracle = np.array(rows, dtype=float).T
        means = products.mean(), plain.mean(), oracle.mean()
        shares = f"{means[0] / means[2]:.3f} ({means[1] / means[2]:.3f})"
        counts = f"{int(mine.sum()):6} ({int(mistaken.sum())})"
        shown = f"{means[0]:8.2f} ({means[1]:.2f}, {means[2]:.2f})"
        print(f"{top:3} {bottom:6} {tolerance:9g} {len(rows):6} {counts}   {shown}   {shares}", flush=True)


def warm(runs: int) -> None:
    results: dict[tuple[int, float], list[tuple[float, ...]]] = {cell: [] for cell in WARM_CELLS}
    generator = torch.Generator().manual_seed(SEED + 1)

    def run(dense: torch.Tensor, k: int, tolerance: float, before: Eigenpairs | None) -> Ends:
        operator = LinearOperator(len(dense), lambda v: dense @ v, dense.dtype, dense.device)
        if before is None:
            start = direction(operator, generator)
        else:
            start = warm_start(before.only_converged().vectors, operator, generator)
        return lanczos(Krylov(operator, start), k, 0, tolerance, LONGEST, generator)

    for number, kind in enumerate(KINDS):
        sequence = list(hessians(NETWORKS[0], *kind, WARM, SEED + 100 + number))
        spectra = [torch.linalg.eigvalsh(dense).numpy() for dense in sequence]
        for (k, tolerance), _ in itertools.product(WARM_CELLS, range(runs)):
            for first in (0, len(WARM) // 2):
                before = run(sequence[first], k, tolerance, None).top
                for at in range(first + 1, first + len(WARM) // 2):
                    fresh, again = (run(sequence[at], k, tolerance, start) for start in (None, before))
                    failed = [wrong(found, spectra[at], tolerance) for found in (fresh, again)]
                    results[k, tolerance].append((*failed, fresh.products, again.products))
                    before = again.top
    print(f"warm starts, P {len(spectra[0])}, Hessians 10 steps apart")
    print("  k tolerance   runs  wrong (cold)   products (cold)")
    for (k, tolerance), rows in results.items():
        off_cold, off_warm, cold_products, warm_products = np.array(rows, dtype=float).T
        print(
            f"{k:3} {tolerance:9g} {len(rows):6} {int(off_warm.sum()):6} ({int(off_cold.sum())})"
            f"   {warm_products.mean():8.2f} ({cold_products.mean():.2f})",
            flush=True,
        )


def main(runs: int = 6) -> None:
    warm(2 * runs)
    cold(runs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
