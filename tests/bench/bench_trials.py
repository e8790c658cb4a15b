"""Trials side by side against one after the other: `python -m tests.bench.bench_trials`, two minutes.

Trial-steps per second at R trials: of lossgeo's own loop with all that a run of trials does at a step (schedule, noise,
escape or divergence looked for), and of a Python loop over trials, autograd and an update in place, which looks for
nothing. On one torch thread and on all; the median of five, each over at least a fifth of a second.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.landscapes.batches import trial_batches
from lossgeo.landscapes.point import Point
from lossgeo.randomness import Noise
from lossgeo.recipes.documents import Document
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.building import landscape_and_data, starts, watch_of
from lossgeo.runs.machine import cores
from lossgeo.runs.trials import Trials

REPEATS, SECONDS = 5, 0.2
SURFACE: dict[str, Any] = {
    "name": "surface",
    "surface": {"name": "strict_saddle", "spectrum": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, -0.1]},
    "optimizer": {"name": "sgd", "lr": 1e-6},
    "start": {"at": "saddle", "offset": 1e-3, "direction": "random"},
    "escape": {"distance": 1.0},
    "steps": 10,
}
NETWORK: dict[str, Any] = {
    "name": "network",
    "model": {"name": "mlp", "hidden": [32]},
    "dataset": "digits",
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 1e-3},
    "batch_size": 32,
    "steps": 10,
}


def rate(step: Callable[[], object], trials: int) -> float:
    """Trial-steps a second."""
    step()
    rates = []
    for _ in range(REPEATS):
        steps, begin = 0, time.perf_counter()
        while (seconds := time.perf_counter() - begin) < SECONDS:
            step()
            steps += 1
        rates.append(trials * steps / seconds)
    return statistics.median(rates)


def ours(plain: dict[str, Any], trials: int) -> Callable[[], object]:
    (resolved,) = resolve(Document({**plain, "replicas": trials}, "bench"))
    recipe = resolved.recipe
    landscape, _ = landscape_and_data(recipe, "cpu")
    theta = starts(recipe, landscape).view(trials, -1)
    loss = BatchLoss(landscape, Noise(0, lambda: trajectory.computed), trials=True)
    point = Point(0, theta, recipe.optimizer.init(loss, theta), recipe.optimizer)
    limits = torch.full((trials,), 1e300, dtype=torch.float64)
    trajectory = Trials(point, limits, 0.0, watch_of(recipe, landscape), exact=landscape.formula is not None)
    size = landscape.train.size if recipe.batch_size == "full" else recipe.batch_size
    batches = trial_batches(landscape.train, size, 0, trials, 0, lambda: trajectory.computed)

    def step() -> None:
        trajectory.watch(point.step)
        loss.begin(point.step, next(batches))
        lr = recipe.optimizer.lr * recipe.schedule.factor(point.step, 10)
        taken = recipe.optimizer.step(loss, trajectory.theta, trajectory.state, lr)
        trajectory.advance(taken, point.step)
        point.step += 1

    return step


def loop(plain: dict[str, Any]) -> Callable[[], object]:
    """One step of one trial, as a script would write it."""
    (resolved,) = resolve(Document(plain, "bench"))
    landscape, _ = landscape_and_data(resolved.recipe, "cpu")
    surface = resolved.recipe.surface
    if surface is not None:
        theta = surface.start(torch.Generator().manual_seed(0)).requires_grad_()

        def on_surface() -> None:
            (gradient,) = torch.autograd.grad(surface.value(theta), theta)
            with torch.no_grad():
                theta.sub_(1e-6 * gradient)

        return on_surface
    module, optimizer = landscape.module, torch.optim.SGD(landscape.module.parameters(), lr=1e-3)
    inputs, targets = (whole[:32] for whole in landscape.train)

    def on_network() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()

    return on_network


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}; trial-steps a second")
    cases = (
        ("strict_saddle, 10 dimensions", SURFACE, (1, 8, 128, 1024, 16384)),
        ("MLP 64-32-10, batch 32", NETWORK, (1, 8, 128, 1024)),
    )
    for threads, (name, plain, counts) in itertools.product(dict.fromkeys((1, cores())), cases):
        torch.set_num_threads(threads)
        alone = rate(loop(plain), 1)
        cells = [f"Python loop {alone:.3g}"]
        for trials in counts:
            together = rate(ours(plain, trials), trials)
            cells.append(f"R = {trials}: {together:.3g} ({together / alone:.1f}x)")
        print(f"{name}, {threads} threads: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
