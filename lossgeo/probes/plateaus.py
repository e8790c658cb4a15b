"""Plateaus of a training: where the gradient is small for a while, what lies there, and how long it takes to leave.

Two decisions a reader would question. Small means small beside the gradient with which the plateau is left, which no
number that one sets beforehand can know: so a plateau is recognized once the gradient has passed its next peak. And
what was found at its middle is measured then, from the few points that were kept on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import numpy as np
import torch
from pydantic import Field

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.extremes import extremes
from lossgeo.curvature.spectral.krylov import Krylov
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.schedules import Rates
from lossgeo.probes import Measurement, Probe
from lossgeo.saddles.first_passage import BatchNoise, Passage
from lossgeo.tables import DECAY, Column, Row

FALLEN = 0.5  # share of a peak below which it has been passed
TOLERANCE = 1e-3  # of the two eigenvalues
BUDGET = 500  # products for these
STEPS = 30  # of Lanczos from the gradient: nodes of its spectral measure


@final
class Plateaus(Probe):
    """Intervals in which the gradient norm is below a share of its next peak, each classified at its middle.

    A row for every measurement, with the gradient norm over the training data; where one shows that a plateau has been
    left, also when that began and ended, and at its middle lambda_min and lambda_max. strict: lambda_min is negative by
    more than `zero` of the largest |lambda|: a saddle. Where training ends on a plateau, it is censored; its level is
    that of the peak before. predicted_steps: from the middle to the end, if the Hessian H stayed as it is there. The
    parts of the gradient g along eigenvectors v_i of negative curvature grow as the optimizer's linear recursion does
    at each step's learning rate, at a constant one to sum_i (g . v_i)^2 z(lambda_i)^(2t): a quadrature by Lanczos steps
    from g.

    Times are told to the distance of two measurements, the middle to a share of 1 / `keep` of the plateau.

    Source: Dauphin et al. 2014 for plateaus as the surroundings of saddles; the linear recursion for the time.
    Cost: a gradient each time, `keep` points in memory, and at the end of a plateau some tens of products with H.
    """

    share: float = Field(default=0.1, gt=0, lt=0.5, description="of the peak, below which the gradient counts as small")
    zero: float = Field(default=1e-3, gt=0, lt=1, description="share of the largest |lambda| up to which one is zero")
    keep: int = Field(default=16, ge=2, le=1000, description="points kept of a plateau to choose its middle from")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("gradient_norm", "float", "loss / parameter", f"Euclidean norm over the training data, here{DECAY}"),
        Column("number", "int", "", "of the plateau, from 0; null: none was seen to end here"),
        Column("start_step", "int", "steps", "first measurement at which the gradient was small"),
        Column("end_step", "int", "steps", "first one at which it was not any more; null: training ended before"),
        Column("censored", "bool", "", "whether training ended before"),
        Column("last_step", "int", "steps", "the end, or where training ended"),
        Column("level", "float", "loss / parameter", "gradient norm below which it was small"),
        Column("middle_step", "int", "steps", "the point kept nearest to the middle"),
        Column("middle_loss", "float", "loss", f"over the training data, there{DECAY}"),
        Column("middle_gradient_norm", "float", "loss / parameter", "there"),
        Column("lambda_min", "float", "loss / parameter^2", "smallest eigenvalue of the Hessian, there"),
        Column("lambda_min_error", "float", "loss / parameter^2", "the solver's bound of its error"),
        Column("lambda_max", "float", "loss / parameter^2", "largest eigenvalue of the Hessian, there"),
        Column("lambda_max_error", "float", "loss / parameter^2", "the solver's bound of its error"),
        Column("strict", "bool", "", "whether the smallest is negative: a saddle"),
        Column("leaving_steps", "int", "steps", "from the middle to the end"),
        Column("predicted_steps", "float", "steps", "the same by the negative eigenvalues there; null: no theory says"),
    )

    def measure(self, landscape: Landscape, point: Point, memory: Memory, generator: torch.Generator) -> Measurement:
        norm = float(torch.linalg.vector_norm(LocalLoss(landscape, point, landscape.train).gradient()))
        if not math.isfinite(norm):
            raise ArithmeticError("the gradient is not finite")
        history = History.of(memory, point.theta).extended(point.step, norm, point.theta, self.keep)
        row: Row = {"gradient_norm": norm}
        found = history.left(self.share, point.last)
        if found is None and point.last:
            found = history.resting(self.share)
        if found is None:
            return Measurement([row], history.memory())
        row |= self._described(landscape, point, history, found, generator)
        return Measurement([row], history.after(found).memory())

    def _described(
        self, landscape: Landscape, point: Point, history: History, found: Plateau, generator: torch.Generator
    ) -> Row:
        first, last = int(history.steps[found.first]), int(history.steps[found.last])
        kept = (history.kept_steps - (first + last) / 2).abs().argmin()
        middle = int(history.kept_steps[kept])
        theta = history.kept[kept].to(point.theta)
        here = LocalLoss(landscape, Point(middle, theta, {}), landscape.train)
        operator, g = Hessian().at(here), here.gradient()
        ends = extremes(operator, generator, TOLERANCE, BUDGET)
        leaving, included = None if found.censored else last - middle, landscape.decay is not None
        return {
            "number": int(history.number),
            "start_step": first,
            "end_step": None if found.censored else last,
            "censored": found.censored,
            "last_step": last,
            "level": found.level,
            "middle_step": middle,
            "middle_loss": landscape.evaluate(theta, landscape.train).loss,
            "middle_gradient_norm": float(torch.linalg.vector_norm(g)),
            "lambda_min": ends.low,
            "lambda_min_error": ends.low_error,
            "lambda_max": ends.high,
            "lambda_max_error": ends.high_error,
            "strict": ends.low < -self.zero * ends.scale,
            "leaving_steps": leaving,
            "predicted_steps": None
            if leaving is None
            else _predicted(point, middle, operator, g, found.level, included),
        }


def _predicted(
    point: Point, begin: int, operator: LinearOperator, g: torch.Tensor, level: float, included: bool
) -> float | None:
    """Steps from `begin` in which the gradient's norm grows to the level, by the linear theory; None: it never does.

    `included`: whether the operator holds the optimizer's weight decay.
    """
    norm, optimizer, rates = float(torch.linalg.vector_norm(g)), point.optimizer, point.rates
    if not isinstance(optimizer, Optimizer) or not isinstance(rates, Rates) or not 0 < norm < level:
        return None
    recursion, decay = optimizer.recursion(rates(begin)), optimizer.penalty()
    if recursion is None or decay is None:
        return None
    krylov = Krylov(operator, g / norm)
    while krylov.steps < min(STEPS, operator.size) and not krylov.invariant:
        krylov.extend()
    values, vectors = krylov.ritz()
    curvatures = np.asarray(values) + decay * (not included)
    down = curvatures < 0
    parts, curvatures = norm * np.asarray(vectors[0])[None, down], curvatures[down]
    if not len(curvatures):
        return None
    # before the middle they have grown for long; only the first step of a training finds the optimizer without memory
    memory = parts * np.array([recursion.growing(h)[1] for h in curvatures]) if begin else np.zeros_like(parts)
    silence, one = np.zeros((len(curvatures), len(curvatures))), np.ones_like(curvatures)
    passage = Passage(optimizer, rates, curvatures, one, level**2, 0 * one, BatchNoise(silence, (1,)))
    return passage.steps(parts, memory, begin)[0]


@dataclass(frozen=True)
class Plateau:
    """Measurements of a history, by their numbers in it."""

    first: int
    last: int  # the first one beyond it; if censored, its own last one
    peak: int
    level: float
    censored: bool


@dataclass(frozen=True)
class History:
    """The gradient norms since the last peak, and a few of the points."""

    steps: torch.Tensor  # (n,) int64
    norms: torch.Tensor  # (n,) float64
    kept_steps: torch.Tensor  # (k,) int64
    kept: torch.Tensor  # (k, P)
    stride: torch.Tensor  # scalar: every so many measurements a point is kept
    number: torch.Tensor  # scalar: plateaus found so far

    @classmethod
    def of(cls, memory: Memory, theta: torch.Tensor) -> Self:
        """As the last measurement left it; before the first one without any points like theta (P,)."""
        if memory:
            return cls(**memory)
        whole = torch.empty(0, dtype=torch.int64)
        norms = torch.empty(0, dtype=torch.float64)
        return cls(whole, norms, whole, theta.new_empty(0, len(theta)), torch.tensor(1), torch.tensor(0))

    def memory(self) -> Memory:
        return dict(vars(self))

    def extended(self, step: int, norm: float, theta: torch.Tensor, keep: int) -> History:
        """With one more measurement; at twice `keep` points every other one goes."""
        kept_steps, kept, stride = self.kept_steps, self.kept, self.stride
        if len(self.steps) % int(stride) == 0:
            kept_steps = torch.cat([kept_steps, torch.tensor([step])])
            kept = torch.cat([kept.to(theta), theta[None]])
        if len(kept_steps) >= 2 * keep:
            kept_steps, kept, stride = kept_steps[::2], kept[::2], 2 * stride
        steps = torch.cat([self.steps, torch.tensor([step])])
        norms = torch.cat([self.norms, torch.tensor([norm], dtype=torch.float64)])
        return History(steps, norms, kept_steps, kept, stride, self.number)

    def left(self, share: float, ended: bool) -> Plateau | None:
        """The plateau before a peak that has been passed; where training has ended any peak counts."""
        low = int(self.norms.argmin())
        peak = low + int(self.norms[low:].argmax())
        level = share * float(self.norms[peak])
        passed = ended or float(self.norms[-1]) < FALLEN * float(self.norms[peak])
        if not passed or not float(self.norms[low]) < level:
            return None
        small = self.norms < level
        last = low + int((~small[low:]).nonzero()[0])
        return Plateau(self._begin(small, low), last, peak, level, censored=False)

    def resting(self, share: float) -> Plateau | None:
        """The plateau that training has ended on."""
        level = share * float(self.norms.max())
        small = self.norms < level
        last = len(small) - 1
        if not bool(small[last]):
            return None
        return Plateau(self._begin(small, last), last, last, level, censored=True)

    def _begin(self, small: torch.Tensor, inside: int) -> int:
        """Where the run of small norms around a measurement begins."""
        large = (~small[:inside]).nonzero()
        return int(large[-1]) + 1 if len(large) else 0

    def after(self, found: Plateau) -> History:
        """From the peak on."""
        since = self.kept_steps >= self.steps[found.peak]
        return History(
            self.steps[found.peak :],
            self.norms[found.peak :],
            self.kept_steps[since],
            self.kept[since],
            torch.ones_like(self.stride),
            self.number + 1,
        )
