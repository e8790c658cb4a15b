"""A saddle and the ways out of it: where trials begin beside it, and when one has left.

A trial has escaped when it is far along the saddle's own ways down, not when it is far. Downhill along a positive
direction, which every trial goes first, is no escape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from lossgeo.components.component import Value
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.errors import UsageError
from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.randomness import generator, trial_seed
from lossgeo.saddles.plants import Plant

DENSE = 512  # parameters up to which the whole Hessian is cheap; where it is diagonal its vectors are exact
FEW = 32  # ways down that a search finds sooner than the whole Hessian; with more, the whole one up to `LARGE`
LARGE = 4096
MOST = 1000  # ways down that trials are watched along
TOLERANCE = 1e-12  # relative error of the eigenvalues that lead down: escape times are told to a step


class Start(Value):
    """Trials begin at a saddle, or a little beside it."""

    at: Literal["saddle"] | None = Field(default=None, description="on a surface: the kind of point to begin at")
    plant: Plant | None = Field(default=None, description="of a network: how its saddles are constructed")
    index: Annotated[int, Field(ge=0)] | Literal["each"] = Field(
        default=0, description="which of the saddles, counted from 0 in their order; each: one trial after the other"
    )
    offset: float = Field(default=0.0, ge=0, description="distance from it")
    direction: Literal["negative", "random", "none"] = Field(
        default="negative",
        description="of the offset: a random one of negative curvature (or descent, where there is none), or any",
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if (self.at is None) == (self.plant is None):
            raise ValueError("give `at: saddle` on a surface, or `plant` with a network")
        if self.direction == "none" and self.offset > 0:
            raise ValueError(f"`direction: none` has no room for an offset of {self.offset:g}; set offset: 0")
        return self


class EscapeRule(Value):
    """When a trial has left a saddle; trials that have are frozen."""

    distance: float | None = Field(
        default=None, gt=0, description="once it is so far from it along its negative directions"
    )
    loss_drop: float | None = Field(default=None, gt=0, description="or once the loss is so far below the saddle's")
    saddles: Literal["start", "all", "last"] = Field(
        default="start",
        description="start: the one begun at; where trials meet saddles in an order, all: every one from there on, "
        "each once those before are left; last: the last of these",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.distance is None) == (self.loss_drop is None):
            raise ValueError("give either `distance` or `loss_drop`, one of them")
        return self


@dataclass(frozen=True)
class Saddles:
    """The critical points that are known of a landscape to begin at, and its Hessian."""

    owner: str  # whose they are, in a message
    points: Sequence[CriticalPoint]
    ordered: bool  # whether trials meet them one after the other
    curvature: Callable[[torch.Tensor], LinearOperator]

    def point(self, number: int) -> CriticalPoint:
        """The one of that number.

        Raises:
            UsageError: there are not so many.
        """
        if not self.points:
            raise UsageError(f"{self.owner} has no saddle that is known; leave `start` and `escape` out")
        if number >= len(self.points):
            count = len(self.points)
            raise UsageError(f"start.index: {self.owner} has {count} saddles, counted from 0; there is no {number}")
        return self.points[number]


@dataclass(frozen=True)
class Saddle:
    """A critical point with the directions that lead down from it."""

    number: int
    theta: torch.Tensor  # (P,) float64
    loss: float
    eigenvalues: torch.Tensor  # (K,) the negative ones, ascending; (1,) 0 where the way down has no curvature
    directions: torch.Tensor  # (K, P) orthonormal rows

    @classmethod
    def of(cls, known: Saddles, number: int) -> Self:
        """Its ways down are all the eigenvectors of negative eigenvalues, copies of one eigenvalue each by itself.

        Costs P products with the Hessian; beyond `DENSE` parameters, where the ways down are few or P is more than
        `LARGE`, some for each of them.

        Raises:
            UsageError: no such point, or nothing leads down from it, or more than `MOST` ways, or not as many as are
                known.
        """
        point = known.point(number)
        if point.way_out is not None:
            return cls(number, point.theta, point.loss, torch.zeros(1, dtype=torch.float64), point.way_out[None])
        if point.index == 0:
            raise UsageError(
                f"start.index: number {number} of {known.owner} is {'degenerate' if point.zeros else 'a minimum'}, "
                "and no way that leads down from it is known"
            )
        size = len(point.theta)
        dense = size <= DENSE or (point.index > FEW and size <= LARGE)
        if not dense and point.index > MOST:
            raise UsageError(
                f"start.index: number {number} of {known.owner} has {point.index} ways down among {size} parameters; "
                f"trials are watched along {MOST} at the most, or along all of them up to {LARGE} parameters"
            )
        operator = known.curvature(point.theta)
        if dense:
            values, vectors = torch.linalg.eigh(operator.columns().cpu())  # which reads one triangle
            values, directions = values[: point.index], vectors.T[: point.index].contiguous()
        else:
            stream = generator(0, "saddle")
            krylov = Krylov(operator, direction(operator, stream))
            down = lanczos(krylov, 0, point.index, TOLERANCE, 10 * size, stream, complete=True).bottom
            values, directions = torch.from_numpy(down.values), down.vectors.cpu()
        found = int((values < 0).sum())
        if found < point.index:
            raise UsageError(
                f"start.index: number {number} of {known.owner} is said to have {point.index} negative eigenvalues, "
                f"and {found} were found"
            )
        return cls(number, point.theta, point.loss, values, directions)

    def components(self, theta: torch.Tensor) -> torch.Tensor:
        """How far points (R, P) are from it along its ways down, (R, K); rows do not see each other."""
        away = theta - self.theta.to(theta)
        return torch.stack([(away * way).sum(-1) for way in self.directions.to(theta)], dim=-1)


def saddles_on_the_way(known: Saddles, start: Start | None, escape: EscapeRule) -> list[Saddle]:
    """Those that trials are watched at, and with `last` those before it.

    Raises:
        UsageError: there are none, or not so many, or trials begin at different ones, or meet them in no order.
    """
    index = 0 if start is None else start.index
    if index == "each":
        raise UsageError("`escape` watches trials at one saddle: give start.index a number in place of `each`")
    known.point(index)
    last = len(known.points) - 1
    wanted = range(index, index + 1 if escape.saddles == "start" else last + 1)
    if len(wanted) > 1 and not known.ordered:
        raise UsageError(
            f"escape.saddles: {escape.saddles} needs saddles that trials meet one after the other; those of "
            f"{known.owner} have no such order: use `saddles: start`, with start.index for another one"
        )
    return [Saddle.of(known, number) for number in wanted]


def beginnings(known: Saddles, start: Start, seed: int, trials: int) -> torch.Tensor:
    """Where trials begin, (R, P) float64, each drawn from its own stream.

    Raises:
        UsageError: the landscape has no such saddle.
    """
    rows, saddles = [], dict[int, Saddle]()
    for trial in range(trials):
        number = trial % max(1, len(known.points)) if start.index == "each" else start.index
        theta = known.point(number).theta
        if start.offset > 0:
            if number not in saddles:
                saddles[number] = Saddle.of(known, number)
            stream = generator(trial_seed(seed, trial), "initialization")
            theta = theta + start.offset * _direction(start, saddles[number], stream)
        rows.append(theta)
    return torch.stack(rows)


def _direction(start: Start, saddle: Saddle, stream: torch.Generator) -> torch.Tensor:
    if start.direction == "random":
        vector: torch.Tensor = torch.randn(len(saddle.theta), generator=stream, dtype=torch.float64)
    elif saddle.eigenvalues[0] == 0:  # what goes down there may go up on the other side
        vector = saddle.directions[0]
    else:
        weights = torch.randn(len(saddle.directions), generator=stream, dtype=torch.float64)
        vector = (weights[:, None] * saddle.directions).sum(0)
    unit: torch.Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


class Watch:
    """Looks at trials step by step for those that have left a saddle; `way` are the saddles that they meet in turn."""

    def __init__(self, escape: EscapeRule, way: Sequence[Saddle]) -> None:
        self.escape = escape
        self.saddles = way[-1:] if escape.saddles == "last" else way
        self._way = way

    def beyond(self, theta: torch.Tensor, losses: torch.Tensor | None) -> torch.Tensor | None:
        """Which of trials (R, P) are beyond each of the S saddles, (R, S); None where that is not to be known now.

        A trial that is far along the ways down from a saddle, as where it begins, and not from one before it, has not
        come there yet.

        By distance it is known before a step, from theta alone (`losses` None); by loss after it, from the losses that
        the step saw.
        """
        if (losses is None) != (self.escape.distance is not None):
            return None
        if losses is not None:
            assert self.escape.loss_drop is not None
            levels = [saddle.loss - self.escape.loss_drop for saddle in self._way]
            return self._in_turn([losses < level for level in levels])
        r = self.escape.distance
        assert r is not None
        found = []
        for saddle in self._way:
            parts = saddle.components(theta)
            far = parts[:, 0].abs() > r if parts.shape[1] == 1 else parts.square().sum(-1) > r * r
            found.append(far)
        return self._in_turn(found)

    def _in_turn(self, found: list[torch.Tensor]) -> torch.Tensor:
        beyond = torch.stack(found, dim=-1).cumprod(-1).bool()
        return beyond[:, -len(self.saddles) :]
