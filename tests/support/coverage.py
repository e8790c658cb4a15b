"""How often the intervals that reports print hold a known truth: one simulation for each statistic and law.

A simulation draws a sample of n, asks the report's own function, and gives the interval with the truth; an interval
that is not printed has no ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.trace import trace as traced
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.reports.analysis import intervals
from lossgeo.reports.analysis.arms import Arm
from lossgeo.reports.analysis.intervals import Estimate
from lossgeo.reports.analysis.power_laws import law, limit
from lossgeo.reports.analysis.spectra import Measured
from lossgeo.reports.analysis.study import RunData
from lossgeo.reports.analysis.survival import survival
from lossgeo.reports.cost import typical_of
from lossgeo.tables import KEYS, Row
from tests.support.networks import landscape_around
from tests.support.spectra import matrix, operator
from tests.support.synthetic import COLUMNS, density

SIZES = (2, 3, 4, 5, 6, 8, 10, 20, 30, 50)

Simulation = Callable[[np.random.Generator, int], tuple[Estimate, float]]


def coverage(simulation: Simulation, n: int, seeds: int) -> float | None:
    """The share of printed intervals that hold the truth, in percent; None where hardly one in ten is printed.

    An end that is not known holds everything beyond the other one.
    """
    held = []
    for seed in range(seeds):
        found, truth = simulation(np.random.default_rng([seed, n]), n)
        if found.low is not None or found.high is not None:
            low, high = (end if x is None else x for x, end in ((found.low, -math.inf), (found.high, math.inf)))
            held.append(low <= truth <= high)
    return 100 * float(np.mean(held)) if len(held) > seeds / 10 else None


def cell(found: float | None) -> str:
    return "-" if found is None else f"{found:.0f}"


# --- runs and trials -------------------------------------------------------------------------------------------------


def mean_of_normal(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return intervals.mean(draws.normal(3, 1, n)), 3.0


def mean_of_lognormal(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return intervals.mean(draws.lognormal(0, 0.25, n)), math.exp(0.25**2 / 2)


def slope_of_sharpness(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    """n seeds at four batch sizes."""
    x = np.tile([16, 64, 256, 1024], n)
    found = intervals.loglog_slope(x, x**0.2 * draws.lognormal(0, 0.12, len(x)), list(np.repeat(range(n), 4)))
    assert found is not None
    return found.exponent, 0.2


def share(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    """Over shares of all sizes: at each of them alone the coverage jumps with n."""
    truth = draws.uniform()
    return intervals.share(int(draws.binomial(n, truth)), n), truth


def spread_ratio(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return intervals.spread_ratio(draws.normal(0, 0.5, n), draws.normal(3, 1, n)), 0.5


def spread_ratio_of_lognormal(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return intervals.spread_ratio(0.5 * draws.lognormal(0, 0.25, n), draws.lognormal(0, 0.25, n)), 0.5


def correlation(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    x = draws.normal(size=n)
    return intervals.correlation(x, 0.6 * x + 0.8 * draws.normal(size=n)), 0.6


# --- times -----------------------------------------------------------------------------------------------------------


def median_steps(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    times = np.ceil(draws.exponential(1000, n))
    return survival(times, np.zeros(n, dtype=bool)).median, 1000 * math.log(2)


def median_steps_within_a_budget(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    times, budget = np.ceil(draws.exponential(1000, n)), 1000
    return survival(np.minimum(times, budget), times > budget).median, 1000 * math.log(2)


def survival_curve(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    """The band of the picture, at a time at which 10 to 90% are still there, with trials lost at random."""
    times, lost = draws.exponential(1, n), draws.exponential(4, n)
    curve, truth = survival(np.minimum(times, lost), times > lost), draws.uniform(0.1, 0.9)
    at = int(np.searchsorted(curve.times, -math.log(truth), side="right")) - 1
    if at < 0 or np.isnan(curve.low[at]):
        return Estimate(), truth
    return Estimate(curve.alive[at], curve.low[at], curve.high[at]), truth


def stage_ratio(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    steps = np.ceil([[100], [300]] * draws.lognormal(0, 0.3, (2, n)))
    frames = [pd.DataFrame({"run": "a", "replica": range(n), "steps": s, "censored": False}) for s in steps]
    first, second = (Arm({}, number, frame, None) for number, frame in enumerate(frames))
    return second.stage_ratio([first, second]), 3.0


def times_of(draws: np.random.Generator, n: int, power: float, spread: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """n trials at each of five settings, of times 40 + 20 x^power or 200 - 40 ln x, in whole steps."""
    x = np.geomspace(0.05, 1, 5)
    means = 200 - 40 * np.log(x) if power == 0 else 40 + 20 * x**power
    return x, [np.ceil(mean * (1 + spread * draws.normal(size=n)).clip(0.05)) for mean in means]


def exponent_of_a_logarithm(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    found = law(*times_of(draws, n, 0, 0.05))
    assert found is not None
    return found.exponent, 0.0


def exponent_of_a_power(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    found = law(*times_of(draws, n, -1, 0.2))
    assert found is not None
    return found.exponent, -1.0


def slope_of_a_law(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    found = law(*times_of(draws, n, 0, 0.01))
    assert found is not None
    return found.slope if found.name == "logarithm" else Estimate(), -40.0


def seconds(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return typical_of(draws.lognormal(0, 0.5, n)), 1.0


# --- critical points -------------------------------------------------------------------------------------------------


def index_rms(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    return intervals.root_mean_square(draws.normal(0, 0.02, n)), 0.02


def rank_correlation(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    x = draws.normal(size=n)
    return intervals.spearman(x, 0.6 * x + 0.8 * draws.normal(size=n)), 6 / math.pi * math.asin(0.3)


def energy_limit(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    """n runs at each of four sizes."""
    sizes = [20.0, 30.0, 40.0, 60.0]
    values = [-1.633 + 1.5 * size ** (-2 / 3) + draws.normal(0, 0.6 / size, n) for size in sizes]
    return limit(sizes, values, -2 / 3), -1.633


# --- spectra ---------------------------------------------------------------------------------------------------------

SPECTRA = {
    "outliers": np.array([20.0, 15.0, 10.0, 8.0, *np.linspace(-0.5, 0.5, 196)]),
    "decaying": 10.0 / np.arange(1, 201),
}


@cache
def operator_of(name: str) -> LinearOperator:
    return operator(matrix(SPECTRA[name]))


def columns_of(trace: list[Row], nodes: list[Row], column: str) -> Estimate:
    """A column of report `spectrum` with its interval, from the rows of the tables trace and density."""
    run = RunData(Path(), "a", {}, {})
    ends = pd.DataFrame(columns=[column.name for column in (*KEYS, *COLUMNS["eigenvalues"])])
    shown = Measured(run, 0, 0, "*", ends, pd.DataFrame(trace), pd.DataFrame(nodes)).numbers(0.01)
    return Estimate(*(shown[f"{column}{end}"] for end in ("", "_low", "_high")))


def of_a_spectrum(name: str, column: str) -> Simulation:
    """The trace and the Frobenius norm that report `spectrum` shows, from n vectors of Hutchinson's."""

    def simulation(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
        stream = torch.Generator().manual_seed(int(draws.integers(1 << 40)))
        found = traced(operator_of(name), "hutchinson", n, 0.0, stream)
        row = {"value": found.value, "low": found.low, "high": found.high, "squares": found.squares}
        row |= {"squares_low": found.squares_low, "squares_high": found.squares_high}
        truth = {"trace": float(SPECTRA[name].sum()), "frobenius": float(np.linalg.norm(SPECTRA[name]))}
        return columns_of([row], [], column), truth[column]

    return simulation


def negative_mass(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
    """n vectors, and as many steps as there are different eigenvalues: nothing lies between two nodes."""
    spectrum = np.repeat([-1.0, 0.5, 2.0], [60, 120, 20])
    rows = density(0, spectrum, vectors=n, steps=3, deflate=0, seed=int(draws.integers(1 << 31)))
    return columns_of([], rows, "negative_mass"), 0.3


POPULATION = 400


@cache
def examples() -> torch.Tensor:
    scales = torch.linspace(1.5, 0.5, 8, dtype=torch.float64)
    return scales * torch.randn(POPULATION, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def of_a_sample(probe: Callable[[int], Eigenvalues | Trace]) -> Simulation:
    """What a probe says of a regression's Hessian over all examples, from n of them."""

    def simulation(draws: np.random.Generator, n: int) -> tuple[Estimate, float]:
        inputs = examples()[torch.from_numpy(draws.permutation(POPULATION))]
        landscape = landscape_around(nn.Linear(8, 1, bias=False), Examples(inputs, inputs[:, :1]), "mse", chunk=None)
        asked = probe(n)
        (row,) = asked.run(landscape, Point(0, landscape.start(), {}), {}, 0).rows
        whole = torch.linalg.eigvalsh(inputs.T @ inputs / POPULATION)
        of_trace = isinstance(asked, Trace)
        name, truth = ("value", whole.sum()) if of_trace else ("eigenvalue", whole[-1])
        return Estimate(row[name], row["low"], row["high"]), float(truth)

    return simulation


# statistic, what n counts, seeds a cell, simulation
STATISTICS: tuple[tuple[str, str, int, Simulation], ...] = (
    ("means over runs, normal", "runs", 1000, mean_of_normal),
    ("means over runs, lognormal", "runs", 1000, mean_of_lognormal),
    ("slope of `sharpness`", "seeds", 1000, slope_of_sharpness),
    ("shares", "trials", 1000, share),
    ("spread_ratio, normal", "trials", 1000, spread_ratio),
    ("spread_ratio, lognormal", "trials", 1000, spread_ratio_of_lognormal),
    ("correlation", "trials", 1000, correlation),
    ("median_steps, ratio, steps", "trials", 1000, median_steps),
    ("the same within a budget", "trials", 1000, median_steps_within_a_budget),
    ("survival curves in pictures", "trials", 1000, survival_curve),
    ("stage_ratio", "trials", 200, stage_ratio),
    ("exponent of a logarithm", "trials a setting", 200, exponent_of_a_logarithm),
    ("exponent of a power", "trials a setting", 200, exponent_of_a_power),
    ("slope of a law", "trials a setting", 200, slope_of_a_law),
    ("seconds of `cost`", "measurements", 1000, seconds),
    ("index_rms", "points", 1000, index_rms),
    ("spearman", "points", 1000, rank_correlation),
    ("energy_limit", "runs a size", 1000, energy_limit),
    ("trace, four outliers", "vectors", 200, of_a_spectrum("outliers", "trace")),
    ("trace, decaying", "vectors", 200, of_a_spectrum("decaying", "trace")),
    ("frobenius, four outliers", "vectors", 200, of_a_spectrum("outliers", "frobenius")),
    ("frobenius, decaying", "vectors", 200, of_a_spectrum("decaying", "frobenius")),
    ("masses", "vectors", 200, negative_mass),
    ("trace of a sample", "examples", 200, of_a_sample(lambda n: Trace(samples=n, vectors=8, method="hutchinson"))),
)
# a bracket bounds two biases beside the error, and so holds more than 95%
BRACKET = ("lambda_max of a sample, bracket", "examples", 200, of_a_sample(lambda n: Eigenvalues(samples=n, bottom=0)))


def table() -> Iterable[list[str]]:
    """The lines of the table in tests/README.md."""
    for name, of, seeds, simulation in (*STATISTICS, BRACKET):
        yield [name, of, *(cell(coverage(simulation, n, seeds)) for n in SIZES)]
