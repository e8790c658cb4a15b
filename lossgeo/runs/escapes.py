"""The table `escapes`: one row a trial and saddle, with what theory said beside what happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.vectorized import VectorizedModule
from lossgeo.optimizers.schedules import Rates
from lossgeo.recipes.recipe import Recipe
from lossgeo.runs.building import network
from lossgeo.runs.trials import RUNNING, WORDS
from lossgeo.saddles.escape_theory import noise_along, predicted_steps
from lossgeo.saddles.saddle import Watch
from lossgeo.tables import Row


class Escapes:
    """What is known of the trials of a run at any moment."""

    def __init__(
        self,
        recipe: Recipe,
        landscape: Landscape,
        data: Data,
        watch: Watch,
        start: torch.Tensor,
        batch_size: int,
        rates: Rates,
    ) -> None:
        self.watch = watch
        self.start = start
        none: list[float | None] = [None] * len(start)
        self.predicted = [none for _ in watch.saddles]  # (S, R)
        at_once = _by_theory(recipe, data, watch, start, rates)
        if at_once is not None:
            self.predicted = at_once
        elif watch.escape.saddles != "last":  # trials begin beside the first one that is watched
            noise = noise_along(landscape, watch.saddles[0], batch_size)
            first, value = watch.saddles[0], _differentiable(landscape)
            self.predicted[0] = predicted_steps(value, first, watch.escape, recipe.optimizer, rates, start, noise)

    def rows(self, point: Point) -> Iterator[Row]:
        """A row for every trial and every saddle that it was at; one is at a saddle once it has left that before."""
        how, ended, beyond = (point.trials[name].tolist() for name in ("how", "ended", "beyond"))
        stuck = [self._stuck(point.theta, number).tolist() for number in range(len(self.watch.saddles))]
        for trial, steps in enumerate(beyond):
            last = point.step if how[trial] == RUNNING else ended[trial]
            begun: int | None = 0
            for number, saddle in enumerate(self.watch.saddles):
                if begun is None:
                    break
                left = steps[number] if steps[number] >= 0 else None
                word = "escaped" if left is not None else "budget" if how[trial] == RUNNING else WORDS[how[trial]]
                yield {
                    "replica": trial,
                    "saddle": saddle.number,
                    "start_step": begun,
                    "escape_step": left,
                    "censored": left is None,
                    "last_step": last if left is None else left,
                    "ended": word,
                    "underflow": left is None and stuck[number][trial],
                    "predicted_steps": self.predicted[number][trial],
                }
                begun = left

    def _stuck(self, theta: torch.Tensor, number: int) -> torch.Tensor:
        """Which trials (R,) have nothing left along the way out that arithmetic could double, though they began so.

        Below the smallest normal number it rounds by as much as what it should add: a step may add nothing for ever.
        """
        saddle, least = self.watch.saddles[number], torch.finfo(theta.dtype).tiny
        now, first = ((saddle.components(t).abs() < least).all(-1) for t in (theta, self.start))
        return now & ~first


def _by_theory(
    recipe: Recipe, data: Data, watch: Watch, start: torch.Tensor, rates: Rates
) -> list[list[float | None]] | None:
    """What the plant knows of gradient descent past all of its saddles: steps at each."""
    plant = None if recipe.start is None else recipe.start.plant
    drop = watch.escape.loss_drop
    plain_descent = recipe.optimizer.drift(1.0) == 1.0
    if plant is None or drop is None or not plain_descent or watch.saddles[0].number != 0:
        return None
    left = plant.leaving(network(recipe)[0], data, start.cpu(), rates, drop)
    if left is None:
        return None
    stays = torch.diff(left, dim=1, prepend=left.new_zeros(len(left), 1))
    known = [stays[:, saddle.number].tolist() for saddle in watch.saddles]
    return [[n if math.isfinite(n) else None for n in steps] for steps in known]


def _differentiable(landscape: Landscape) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss on the training data as a function of theta (P,), for derivatives of any order."""
    if landscape.formula is not None:
        return landscape.formula
    mean = VectorizedModule(landscape.module, landscape.loss).mean
    inputs, targets = landscape.train

    def value(theta: torch.Tensor) -> torch.Tensor:
        matched = targets.to(theta.dtype) if targets.is_floating_point() else targets
        loss: torch.Tensor = mean(theta.to(inputs.device), inputs.to(theta.dtype), matched)
        return loss

    return value
