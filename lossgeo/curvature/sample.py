"""An operator over a sample of the training examples: what the probes of one operator at one point share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.memory import memory_budget
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.flat_module import BatchNormMode
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point


@dataclass(frozen=True)
class Settings:
    """What is measured where: an operator over the first `size` training examples, on a block of the parameters.

    `memory` is in bytes, None: half of what is free.
    """

    operator: Operator
    size: int
    names: tuple[str, ...]
    dtype: torch.dtype
    batch_norm: BatchNormMode = "eval"
    memory: int | None = None


class Sample:
    """An operator over some of the training examples at a point, and over parts of these.

    `left`: the share of the training examples that is not measured; `whole`: there is none. `cost` is in products so
    far, those over a part counted by their share of the examples. `one_layer`: one module owns the whole block.
    """

    def __init__(self, settings: Settings, landscape: Landscape, point: Point) -> None:
        self.left = 1 - settings.size / landscape.train.size
        self.whole = settings.size == landscape.train.size
        self.examples = settings.size
        self.one_layer = len({name.rpartition(".")[0] for name in settings.names}) == 1
        self._settings, self._landscape, self._point = settings, landscape, point
        budget = memory_budget(landscape.device) if settings.memory is None else settings.memory
        self._memory = budget if self.whole else budget // 2  # the other half is for two parts at a time
        self.here, self.operator = self._over(slice(0, settings.size), self._memory)
        self._random: Krylov | None = None
        self._elsewhere = 0.0  # products over parts, by their share

    def _over(self, rows: slice, memory: int) -> tuple[LocalLoss, LinearOperator]:
        asked, examples = self._settings, self._landscape.train.rows(rows)
        here = LocalLoss(self._landscape, self._point, examples, asked.batch_norm, asked.names, asked.dtype, memory)
        return here, asked.operator.at(here)

    @property
    def cost(self) -> float:
        return self.operator.products + self._elsewhere

    @property
    def room(self) -> int | None:
        """How many vectors a Krylov space may hold: half, since the shared one may be there beside another."""
        return None if self.operator.room is None else self.operator.room // 2

    def random_krylov(self, generator: torch.Generator) -> Krylov:
        """The Krylov space of a random start vector; the same one for every probe of this operator at this point.

        `generator` has to be a fresh one: the start vector is what it draws first.
        """
        start = direction(self.operator, generator)
        if self._random is None or self._random.released:
            self._random = Krylov(self.operator, start)
        return self._random

    def part(self, number: int, count: int) -> LinearOperator:
        """The operator over the `number`-th of `count` disjoint parts of the examples; `charge` what it costs."""
        size = self.examples
        return self._over(slice(number * size // count, (number + 1) * size // count), self._memory // 2)[1]

    def charge(self, products: float) -> None:
        """Count products that were made elsewhere, in products over all the examples."""
        self._elsewhere += products
