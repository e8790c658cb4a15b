"""When displacements that a linear recursion multiplies, and noise adds to, have grown to a size: to the step.

Beside a saddle a step takes (x, u), displacement and memory, to A (x, u) + pull (force + noise) in every direction, A
by the step's learning rate. While the rate changes, steps are taken one by one. From where it stays, an epoch is a map
(E, g, W) of mean and covariance, and the map of two epochs (E E, E g + g, E W E' + W): by doubling, a time of n steps
takes log n maps.

Batches are drawn without replacement. Those of one epoch, of b_1, b_2, ... out of N examples with covariance C, have

    Cov(n_s, n_t) = C (delta_st N / b_s - 1) / (N - 1),

so that what an epoch adds is the sum of its batches' own parts less the square of what all of them add together.

With noise the median over trials is told: the first step at which half of them are beyond the size. That takes noise
for Gaussian, as the sum of many batches is, and being beyond for having been, which is right where a step's noise is
small beside the size.

Source: the linear recursion; Daneshmand et al. 2018 for the noise; Cochran 1977, section 2.8, for the batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from lossgeo.optimizers import Optimizer, Recursion
from lossgeo.optimizers.schedules import Rates

LONGEST = 1e12  # steps beyond which nobody waits
LARGEST = 1e50  # of an entry of a map that may still be squared: covariances hold its fourth power
REPEATS = 100  # of the longest map: by then every number has grown, if any does
DRAWS = 4096  # of the law of the trials: the share beyond is told to 0.001, by points of a Sobol sequence
SMALL = 0.15  # of the size: with noise above it trials are beyond it for a while and back again


@dataclass(frozen=True)
class BatchNoise:
    """The noise of the gradient along K directions."""

    covariance: np.ndarray  # (K, K) of one example's gradient among N
    sizes: tuple[int, ...]  # of the batches of an epoch, in order; they add up to N
    own: float = 0.0  # variance, in every direction, of what the optimizer adds at every step

    @property
    def silent(self) -> bool:
        return self.own == 0 and not self.covariance.any()

    def of_step(self, step: int) -> np.ndarray:
        """The part (K, K) of the covariance that a batch has by itself."""
        examples, size = sum(self.sizes), self.sizes[step % len(self.sizes)]
        alone: np.ndarray = self.covariance * (examples / (max(examples - 1, 1) * size))
        return alone + self.own * np.eye(len(alone))

    @property
    def shared(self) -> np.ndarray:
        """The part (K, K) that all batches of an epoch have in common, to be taken off."""
        shared: np.ndarray = self.covariance / max(sum(self.sizes) - 1, 1)
        return shared


@dataclass(frozen=True)
class _Law:
    """Where R trials stand after some steps: their means, and the covariance of all of them alike."""

    x: np.ndarray  # (R, K)
    u: np.ndarray  # (R, K)
    spread: np.ndarray  # (K, K, 2, 2) covariance of (x, u), as if the batches of this epoch were independent
    epoch: np.ndarray  # (K, 2): what noise of 1 in every batch of this epoch has added up to


@dataclass(frozen=True)
class _Map:
    """What some steps do: (x, u) -> matrix (x, u) + offset, and the covariance that they add."""

    matrix: np.ndarray  # (K, 2, 2)
    offset: np.ndarray  # (K, 2)
    added: np.ndarray  # (K, K, 2, 2)

    @classmethod
    def of(cls, recursion: Recursion, curvatures: np.ndarray, force: np.ndarray, noise: np.ndarray) -> _Map:
        """One step; noise (K, K) is the covariance of its gradient."""
        pull = np.array(recursion.pull)
        matrix = np.tile(np.array(recursion.free), (len(curvatures), 1, 1))
        matrix[:, :, 0] += curvatures[:, None] * pull
        return cls(matrix, force[:, None] * pull, noise[:, :, None, None] * np.outer(pull, pull))

    def law(self, before: _Law) -> _Law:
        (a, b), (c, d) = self.matrix.transpose(1, 2, 0)
        return replace(
            before,
            x=a * before.x + b * before.u + self.offset[:, 0],
            u=c * before.x + d * before.u + self.offset[:, 1],
            spread=_between(self.matrix, before.spread) + self.added,
        )

    def then(self, after: _Map) -> _Map:
        return _Map(
            after.matrix @ self.matrix,
            _times(after.matrix, self.offset) + after.offset,
            _between(after.matrix, self.added) + after.added,
        )


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    product: np.ndarray = (matrix @ vectors[:, :, None])[:, :, 0]
    return product


def _between(matrix: np.ndarray, spread: np.ndarray) -> np.ndarray:
    product: np.ndarray = matrix[:, None] @ spread @ matrix.transpose(0, 2, 1)[None]
    return product


class Passage:
    """Trials in K directions of the given curvatures, under an optimizer that has a linear recursion.

    They leave once sum_k weights_k x_k^2 is above `goal`. `force` (K,) is a constant gradient beside curvature x.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rates: Rates,
        curvatures: np.ndarray,
        weights: np.ndarray,
        goal: float,
        force: np.ndarray,
        noise: BatchNoise,
    ) -> None:
        self.optimizer, self.rates, self.curvatures = optimizer, rates, curvatures
        self.weights, self.goal, self.force, self.noise = weights, goal, force, noise
        self.quiet = noise.silent
        self._normals = np.empty((0, len(curvatures)))
        self._which = np.empty(0)
        if not self.quiet:
            engine: Any = torch.quasirandom.SobolEngine  # which torch leaves untyped
            points = engine(len(curvatures) + 1, scramble=True, seed=0).draw(DRAWS, dtype=torch.float64).numpy()
            self._which = points[:, 0]
            self._normals = ndtri(points[:, 1:].clip(0.25 / DRAWS, 1 - 0.25 / DRAWS))

    def steps(self, x: np.ndarray, u: np.ndarray, begin: int = 0) -> list[float | None]:
        """Steps from step `begin` on until trials (R, K) leave; with noise, one median for all; None: they never do.

        Costs the steps in which the rate changes, an epoch of batches, and the logarithm of the rest.
        """
        k = len(self.curvatures)
        law = _Law(x, u, np.zeros((k, k, 2, 2)), np.zeros((k, 2)))
        found = np.full(len(x), np.inf)
        found[self._beyond(law)] = 0
        step, period = begin, 1 if self.quiet else len(self.noise.sizes)
        while np.isinf(found).any() and (step < max(self.rates.settled, begin + 1) or step % period):
            law, step = self._step(law, step), step + 1
            found[np.isinf(found) & self._beyond(law)] = step - begin
        going = np.isinf(found)
        if going.any():
            found[going] = step - begin + self._settled(replace(law, x=law.x[going], u=law.u[going]), step, period)
        if not self.quiet and np.isfinite(found).all() and self._wanders(begin + int(found[0])):
            found[:] = np.inf
        return [float(n) if np.isfinite(n) else None for n in found]

    def _settled(self, law: _Law, step: int, period: int) -> np.ndarray:
        """The same from a step on from which the rate stays, at the begin of an epoch."""
        maps = [self._epoch(step, period)]
        while period * 2 ** len(maps) < LONGEST and np.abs(maps[-1].matrix).max() < LARGEST:
            maps.append(maps[-1].then(maps[-1]))
        passed = np.zeros(len(law.x))
        for number, many in [(len(maps) - 1, maps[-1])] * REPEATS + list(enumerate(maps))[::-1]:
            ahead = many.law(law)
            stays = ~self._beyond(ahead) & (passed + period * 2**number < LONGEST)
            if not stays.any() and many is maps[-1]:
                continue
            passed[stays] += period * 2**number
            x, u = np.where(stays[:, None], ahead.x, law.x), np.where(stays[:, None], ahead.u, law.u)
            law = replace(ahead if stays.all() else law, x=x, u=u)
        left = np.full(len(passed), np.inf)
        for number in range(period):  # of the epoch in which they leave
            law = self._step(law, step + number)
            left[np.isinf(left) & self._beyond(law)] = number + 1
        whole: np.ndarray = passed + left
        return whole

    def _epoch(self, step: int, period: int) -> _Map:
        """An epoch of steps as one map."""
        parts = [self._map(step + number) for number in range(period)]
        whole, together = parts[0], np.tile(self._pull(step), (len(self.curvatures), 1))
        for number, part in enumerate(parts[1:], 1):
            whole, together = whole.then(part), _times(part.matrix, together) + self._pull(step + number)
        return replace(whole, added=whole.added - self._common(together))

    def _step(self, law: _Law, step: int) -> _Law:
        here = self._map(step)
        law = replace(here.law(law), epoch=_times(here.matrix, law.epoch) + self._pull(step))
        if (step + 1) % len(self.noise.sizes):
            return law
        return replace(law, spread=law.spread - self._common(law.epoch), epoch=np.zeros_like(law.epoch))

    def _map(self, step: int) -> _Map:
        recursion = self.optimizer.recursion(self.rates(step), step == 0)
        assert recursion is not None, "the caller has asked"
        return _Map.of(recursion, self.curvatures, self.force, self.noise.of_step(step))

    def _pull(self, step: int) -> np.ndarray:
        recursion = self.optimizer.recursion(self.rates(step), step == 0)
        assert recursion is not None, "the caller has asked"
        return np.array(recursion.pull)

    def _common(self, together: np.ndarray) -> np.ndarray:
        """What the batches of an epoch have less than independent ones, (K, K, 2, 2)."""
        common: np.ndarray = self.noise.shared[:, :, None, None] * np.einsum("ia,jb->ijab", together, together)
        return common

    def _beyond(self, law: _Law) -> np.ndarray:
        """Which of the trials (R,) are beyond the goal; with noise, whether half of them are."""
        with np.errstate(over="ignore"):
            size = (self.weights * law.x**2).sum(1)
        if self.quiet:
            left: np.ndarray = size > self.goal
            return left
        if not len(size):
            return np.zeros(0, bool)
        covariance = self._covariance(law)
        if size.mean() + (self.weights * np.diag(covariance)).sum() < 0.5 * self.goal:  # by Markov's inequality
            return np.zeros(len(size), bool)
        values, vectors = np.linalg.eigh(covariance)
        noise = self._normals @ (vectors * np.sqrt(values.clip(0))).T
        x = law.x[(self._which * len(law.x)).astype(int)] + noise
        return np.full(len(size), ((self.weights * x**2).sum(1) > self.goal).mean() >= 0.5)

    def _covariance(self, law: _Law) -> np.ndarray:
        """Of the displacements, (K, K)."""
        covariance: np.ndarray = (law.spread - self._common(law.epoch))[:, :, 0, 0]
        return covariance

    def _wanders(self, step: int) -> bool:
        """Whether what noise adds while a displacement grows by a factor of e or so is not small beside the goal."""
        down = self.curvatures < 0
        recursion, own = self.optimizer.recursion(self.rates(step)), np.diag(self.noise.of_step(step))[down]
        assert recursion is not None, "the caller has asked"
        (_, b), (_, d) = recursion.free
        factors = np.array([recursion.growing(h)[0] for h in self.curvatures[down]])
        pulled = recursion.pull[0] + recursion.pull[1] * b / (factors - d)  # along what grows
        return bool((self.weights[down] * own * pulled**2 / (factors**2 - 1)).sum() > SMALL**2 * self.goal)
