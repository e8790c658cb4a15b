"""The curvature engine beside PyHessian, curvlinops with SciPy's eigsh, and hessian-eigenthings.

    python -m tests.bench.bench_curvature [--quick] [--workload abc] [--what hvp,top,density,trace,memory,overhead]

One process with torch's default threads for all (memory: a process each). The contestants take turns, each round with
start vectors of its own, and a time is the median over five rounds, or over as many as fit in 45 seconds. `error` is
the largest over the rounds of max |value - truth| / |truth| over the eigenvalues; curvature/truth.py says what it is.
The whole takes about half an hour on two cores and twenty minutes more the first time, for the truth; --quick six.

The libraries are those of `.ci/run`, which installs them without their dependencies.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from tests.bench.curvature.contest import CELL, Table, contest, digits, peak, ratio
from tests.bench.curvature.contestant import Contestant
from tests.bench.curvature.ours import Lossgeo
from tests.bench.curvature.overhead import PROBES, overhead
from tests.bench.curvature.their_curvlinops import Curvlinops
from tests.bench.curvature.their_eigenthings import (
    HessianEigenthings,
    HessianEigenthingsOracle,
    HessianEigenthingsTuned,
)
from tests.bench.curvature.their_pyhessian import PyHessian, PyHessianSingle
from tests.bench.curvature.truth import LONG, truth
from tests.bench.curvature.workloads import SEEDS, WORKLOADS, Problem, gradient, least_product, problem, seconds

EIGENTHINGS = f"hessian-eigenthings {version('hessian-eigenthings')}"
CONTESTANTS: dict[str, type[Contestant]] = {
    "lossgeo": Lossgeo,
    f"PyHessian {version('pyhessian')}, loader": PyHessian,
    f"PyHessian {version('pyhessian')}, single batch": PyHessianSingle,
    f"curvlinops {version('curvlinops-for-pytorch')}": Curvlinops,
    EIGENTHINGS: HessianEigenthings,
}
TURN = 0.3  # seconds of products in a round
TRACES = 200  # seeds of each estimate of the trace
DENSITY = (80, 4)  # steps and vectors
TRACE = 12  # products
WHATS = ("hvp", "top", "density", "trace", "memory", "overhead")


def _entered(problem: Problem, dtype: torch.dtype = torch.float32) -> dict[str, Contestant]:
    """Everybody, warmed up with one product."""
    found = {name: kind(problem, dtype) for name, kind in CONTESTANTS.items()}
    for contestant in found.values():
        contestant.product()()
    return found


# --- the measurements ------------------------------------------------------------------------------------------------


def hvp(problems: Mapping[str, Problem], rounds: int) -> None:
    table = Table("Hessian-vector product, in gradients over the same data (milliseconds)", problems)
    for name, p in problems.items():
        chunks = dict.fromkeys([len(p.targets), p.workload.chunk])
        calls: dict[str, Callable[[], object]] = {f"gradient {size}": gradient(p, size) for size in chunks}
        calls |= {who: kind(p).product() for who, kind in CONTESTANTS.items()}
        for call in calls.values():
            call()
        counts = {who: max(1, round(TURN / seconds(call))) for who, call in calls.items()}

        def turn(who: str, calls: Any = calls, counts: Any = counts) -> Callable[[int], Callable[[], None]]:
            def repeat() -> None:
                for _ in range(counts[who]):
                    calls[who]()

            return lambda number: repeat

        cells = contest({who: turn(who) for who in calls}, max(rounds, 3))
        each = {who: cell.time / counts[who] for who, cell in cells.items()}
        # the unit is the cheaper of the gradient in one piece and in the chunks that suit the network
        unit = min(each[f"gradient {size}"] for size in chunks)
        for who in CONTESTANTS:
            table.put(who, name, f"{each[who] / unit:.2f} ({each[who] * 1e3:.1f})")
        table.put("one gradient", name, f"1 ({unit * 1e3:.1f})")
        table.put("multiply-adds alone", name, f"{least_product(p):.2f}")
    table.show()


def top(problems: Mapping[str, Problem], rounds: int, k: int, tolerance: float) -> None:
    # float32 products have errors of 1e-7 of the largest eigenvalue, too coarse for a tenth of it at 1e-6
    dtype = torch.float32 if tolerance > 1e-5 else torch.float64
    title = f"Top {k} at {tolerance:g}, {str(dtype).removeprefix('torch.')}: seconds, products, error, time over ours"
    table = Table(title, problems)
    for name, p in problems.items():
        known = truth(p)
        if -known.bottom > known.top[k - 1]:
            print(f"{name}: the smallest eigenvalue is among the {k} of largest modulus, which PyHessian looks for")
        entered = _entered(p, dtype)
        entered[f"{EIGENTHINGS}, steps tuned by its residuals"] = HessianEigenthingsTuned(p, dtype)
        entered[f"{EIGENTHINGS}, steps tuned by the true errors"] = HessianEigenthingsOracle(p, dtype)
        cells = contest({who: _topping(c, k, tolerance) for who, c in entered.items()}, rounds)
        for who, cell in cells.items():
            error = max(known.error(found.values) for found in cell.results)
            shown = f"{error:.0e}" if error <= tolerance else f"**{error:.0e}**"
            products = median(found.products for found in cell.results)
            parts = [f"{digits(cell.time)} s", f"{products:.0f}", shown, ratio(cell, cells["lossgeo"], rounds)]
            table.put(who, name, " · ".join(parts))
    table.show()


def _topping(contestant: Contestant, k: int, tolerance: float) -> Callable[[int], Callable[[], Any]]:
    return lambda number: contestant.top(k, tolerance, number)


def density(problems: Mapping[str, Problem], rounds: int) -> None:
    steps, vectors = DENSITY
    title = f"Density, {steps} steps x {vectors} vectors: seconds, Wasserstein distance over range, time over ours"
    table = Table(title, problems)
    for name, p in problems.items():
        known = truth(p)
        entered = _entered(p)
        cells = contest({who: _spreading(c) for who, c in entered.items()}, rounds)
        for who, cell in cells.items():
            far = median(
                wasserstein_distance(nodes, known.nodes, weights, known.weights) for nodes, weights in cell.results
            ) / (known.top[0] - known.bottom)
            table.put(who, name, f"{digits(cell.time)} s · {far:.1e} · {ratio(cell, cells['lossgeo'], rounds)}")
    table.show()
    print(f"\nThe reference of b and c is itself a quadrature, of {LONG[0]} steps x {LONG[1]} vectors.")


def _spreading(contestant: Contestant) -> Callable[[int], Callable[[], Any]]:
    return lambda number: contestant.density(*DENSITY, number)


def trace(problems: Mapping[str, Problem], seeds: int) -> None:
    table = Table(f"Trace with {TRACE} products: rms relative error over seeds", problems)
    for name, p in problems.items():
        known = truth(p).trace
        for who, kind in CONTESTANTS.items():
            for method, estimate in kind(p).traces(TRACE).items():
                begin, errors = time.perf_counter(), []
                for seed in range(seeds):
                    errors.append(estimate(seed) / known - 1)
                    if time.perf_counter() - begin > CELL / 5:
                        break
                text = f"{100 * float(np.sqrt(np.mean(np.square(errors)))):.1f}% ({len(errors)} seeds)"
                table.put(f"{who}, {method}", name, text)
    table.show()


def memory(problems: Mapping[str, Problem]) -> None:
    """Each in a process of its own; the baseline has the model, the data and all libraries, and computes nothing."""
    table = Table("Peak memory of the top 10 at 1e-3 beyond model, data and libraries, MiB", problems)
    for name in problems:
        base = _child("--one", name, "nobody")["peak"]
        for who in CONTESTANTS:
            table.put(who, name, f"{_child('--one', name, who)['peak'] - base:.0f}")
    table.show()
    told = _child("-m", "curvature.large")
    print(
        f"\nlossgeo on an MLP of {told['size']:,} parameters and 1,024 examples, told to take {told['memory']} GiB "
        f"in a process limited to {told['limit']}: peak {told['peak']:.0f} MiB in all, {told['products']} products "
        f"(graphs {told['note']}), {told['converged']} of 10 eigenvalues converged at 1e-3, {told['seconds']:.0f} s"
    )


def overheads(workloads: Iterable[str]) -> None:
    columns = list(workloads)
    table = Table(
        "Probes on 1,024 examples once per 469 steps of 128: share of the training time, then for each its seconds and "
        "its price in gradients over the same examples",
        columns,
    )
    for name in columns:
        for kind in PROBES:
            share, costs = overhead(name, kind)
            each = [f"{probe} {digits(s)} s, {digits(g)}, {products:.0f}" for probe, (s, g, products) in costs.items()]
            table.put(kind, name, " · ".join([f"{100 * share:.1f}%", *each]))
    table.show()


# --- processes -------------------------------------------------------------------------------------------------------


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.bench_curvature", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _one(name: str, who: str) -> dict[str, Any]:
    p = problem(name)
    if who != "nobody":
        CONTESTANTS[who](p).top(10, 1e-3, 0)()
    return {"peak": peak()}


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    packages = ("torch", "numpy", "scipy", "pyhessian", "curvlinops-for-pytorch", "hessian-eigenthings")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    # with another process on the cores, threads that wait for each other make a product up to a hundred times slower
    load = f"load {os.getloadavg()[0]:.1f} before the start"
    return f"{model}, {torch.get_num_threads()} threads, {load}; Python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; density and memory on a alone; no overhead")
    parser.add_argument("--workload", default="abc", help="which of a, b, c")
    parser.add_argument("--what", default=",".join(WHATS), help="measurements, separated by commas")
    parser.add_argument("--one", nargs=2, help="peak memory of this process: workload, who (used by the script itself)")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(*options.one)))
        return
    whats = options.what.split(",")
    if unknown := set(whats) - set(WHATS):
        parser.error(f"unknown measurements {', '.join(sorted(unknown))}; there are {', '.join(WHATS)}")
    print(_machine())
    problems = {name: problem(name) for name in WORKLOADS if name in options.workload}
    for name, p in problems.items():
        print(f"{name}: {p.workload.title}; P = {p.size:,}, N = {len(p.targets):,}", flush=True)
    small = {name: p for name, p in problems.items() if name == "a"} if options.quick else problems
    rounds = 1 if options.quick else SEEDS
    if "hvp" in whats:
        hvp(problems, rounds)
    if "top" in whats:
        top(problems, rounds, 10, 1e-3)
        top({name: p for name, p in small.items() if name != "c"}, rounds, 10, 1e-6)
        top(problems, rounds, 1, 1e-3)
    if "density" in whats:
        density(small, rounds)
    if "trace" in whats:
        trace(small, TRACES // 10 if options.quick else TRACES)
    if "memory" in whats:
        memory(small)
    if "overhead" in whats and not options.quick:
        overheads(name for name in problems if name != "a")


if __name__ == "__main__":
    main()
