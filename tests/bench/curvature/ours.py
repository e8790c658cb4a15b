"""lossgeo as a contestant."""

from __future__ import annotations

from collections.abc import Callable

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Eigenpairs, lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.trace import trace
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Task
from lossgeo.randomness import generator

from .contestant import Contestant, Found, Nodes

BUDGET = 500  # products, the default of the probe; `room` is passed as the probe passes it


class Lossgeo(Contestant):
    """The engine as the probes use it, the check that the model is repeatable included."""

    def _landscape(self) -> Landscape:
        inputs, targets = self.whole
        examples = Examples(inputs, targets)
        task = Task(tuple(inputs.shape[1:]), 10, "classes")
        test = examples.rows(slice(2))
        return Landscape(self.problem.copy(self.dtype), CrossEntropy(), task, examples, test, self.dtype)

    def _operator(self, landscape: Landscape) -> LinearOperator:
        point = Point(0, landscape.start(), {})
        return Hessian().at(LocalLoss(landscape, point, landscape.train))

    def product(self) -> Callable[[], object]:
        operator = self._operator(self._landscape())
        vector = direction(operator, generator(0, "bench"))
        return lambda: operator @ vector

    def top(self, k: int, tolerance: float, seed: int) -> Callable[[], Found]:
        landscape = self._landscape()

        def call() -> Found:
            operator = self._operator(landscape)
            stream = generator(seed, "bench")
            krylov = Krylov(operator, direction(operator, stream))
            ends = lanczos(krylov, k, 0, tolerance, BUDGET, stream, operator.room)
            return Found(ends.top.values, operator.products)

        return call

    def density(self, steps: int, vectors: int, seed: int) -> Callable[[], Nodes]:
        landscape = self._landscape()

        def call() -> Nodes:
            operator = self._operator(landscape)
            stream = generator(seed, "bench")
            first = Krylov(operator, direction(operator, stream))
            known = lanczos(first, 10, 0, 1e-3, steps, stream, operator.room).top.only_converged()
            found = density(operator, steps, vectors, stream, known, first)
            return found.node, found.weight / vectors

        return call

    def traces(self, products: int) -> dict[str, Callable[[int], float]]:
        operator = self._operator(self._landscape())
        stream = generator(0, "bench")
        # what a probe of the top 10 at 1e-3 leaves behind
        known: Eigenpairs = lanczos(
            Krylov(operator, direction(operator, stream)), 10, 0, 1e-3, BUDGET, stream, operator.room
        ).top

        def estimate(seed: int) -> float:
            return trace(operator, "deflated", products, 0.0, generator(seed, "bench-trace"), known).value

        return {"after a top-10 probe": estimate}
