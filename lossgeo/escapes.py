"""The table `escapes`: one row a trial and saddle, with what theory said beside what happened."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lossgeo.course import RUNNING, WORDS
from lossgeo.landscape import Landscape
from lossgeo.point import Point
from lossgeo.prediction import predicted_steps
from lossgeo.recipe import Recipe
from lossgeo.saddles import Watch
from lossgeo.tables import Row


class Escapes:
    """What is known of the trials of a run at any moment."""

    def __init__(
        self, recipe: Recipe, landscape: Landscape, watch: Watch, start: torch.Tensor, batch_size: int
    ) -> None:
        self.watch = watch
        self.start = start
        first = watch.saddles[0]
        assert recipe.surface is not None
        tilts = landscape.train.inputs
        along = (tilts[:, None, :] * first.directions.to(tilts)).sum(-1)  # (N, K)
        left = (len(tilts) - batch_size) / max(1, len(tilts) - 1)  # of batches drawn without replacement
        noise = along.std(0, correction=0) * (left / batch_size) ** 0.5
        lr = recipe.optimizer.lr * recipe.schedule.factor(0, recipe.steps or 1)
        near = watch.escape.saddles != "last"  # trials begin beside the first one that is watched
        self.predicted = (
            predicted_steps(recipe.surface, first, watch.escape, recipe.optimizer, lr, start, noise)
            if near
            else [None] * len(start)
        )

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
                    "predicted_steps": self.predicted[trial] if number == 0 else None,
                }
                begun = left

    def _stuck(self, theta: torch.Tensor, number: int) -> torch.Tensor:
        """Which trials (R,) have nothing left along the way out that arithmetic could double, though they began so.

        Below the smallest normal number it rounds by as much as what it should add: a step may add nothing for ever.
        """
        saddle, least = self.watch.saddles[number], torch.finfo(theta.dtype).tiny
        now, first = ((saddle.components(t).abs() < least).all(-1) for t in (theta, self.start))
        return now & ~first
