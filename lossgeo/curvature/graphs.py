"""Graphs of derivatives, one a chunk of examples: kept where memory allows it, else built again for every product.

The graph of a gradient is what a product with the Hessian starts from. Kept, a product costs the second backward pass
alone: a prototype took 1.1 to 1.7 gradients, and 2.1 to 3.2 with the graph built each time. It holds all activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Generic, TypeVar

import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.rehearsal import graph_nodes, hooked
from lossgeo.landscapes.task import Examples

G = TypeVar("G")

SCRATCH = 10  # vectors that a product and an orthogonalization hold for a moment


class Graphs(Generic[G]):
    """What `build(piece, share)` returns for every chunk; `roots` lists the tensors at the end of such a graph.

    Graphs may take half of the memory of `here`, the vectors that an algorithm holds the rest: `room` of them.

    Raises:
        ValueError: the examples depend on each other, and the one graph of them all does not fit the memory.
    """

    def __init__(
        self,
        here: LocalLoss,
        build: Callable[[Examples, float], G],
        roots: Callable[[G], list[torch.Tensor | None]],
    ) -> None:
        self._here = here
        self._build = build
        self._kept: list[G] = []
        self.chunks = 0
        fitting, taken = 1, 0  # how many graphs fit is known once the first, the largest, is built
        for number, (piece, share) in enumerate(here.pieces()):
            self.chunks += 1
            if number >= fitting:
                continue
            graph = build(piece, share)
            if number == 0:
                taken = max(1, graph_bytes(roots(graph)))
                fitting = here.memory // 2 // taken
                if taken > here.memory and not here.independent:
                    raise ValueError(
                        f"the examples depend on each other, so that all {here.examples.size} are taken together, and "
                        f"their graph of {taken / 2**30:.2g} GiB does not fit the memory of "
                        f"{here.memory / 2**30:.2g} GiB: give `memory`, or fewer examples"
                    )
            if number < fitting:
                self._kept.append(graph)
        # where none is kept, one is there at a time nevertheless
        self.held = taken * max(1, len(self._kept))
        self.room = vectors_beside(here, here.size, self.held)

    def __iter__(self) -> Iterator[tuple[G, bool]]:
        """Every chunk's graph, and whether it will be wanted again."""
        self._here.require_current()
        yield from ((graph, True) for graph in self._kept)
        for piece, share in self._here.pieces(skip=len(self._kept)):
            yield self._build(piece, share), False

    @property
    def note(self) -> str:
        """How products are made: kept, rebuilt, or kept M of N."""
        kept = len(self._kept)
        return "kept" if kept == self.chunks else f"kept {kept} of {self.chunks}" if kept else "rebuilt"


def vectors_beside(here: LocalLoss, size: int, held: int) -> int:
    """How many vectors of that size fit the memory beside what is held, in bytes."""
    return max(0, (here.memory - held) // (size * here.theta.element_size()) - SCRATCH)


def graph_bytes(outputs: list[torch.Tensor | None]) -> int:
    """Bytes of the distinct tensors that the graph behind `outputs` keeps alive."""
    storages: dict[int, int] = {}
    for node in graph_nodes(outputs):
        kind: type = type(node)
        for name in _saved(kind):
            # what comes back through a hook is computed anew, or fetched, whenever it is asked for: it is not held
            saved = None if hooked(node, name) else getattr(node, name, None)
            for tensor in saved if isinstance(saved, list | tuple) else [saved]:
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@cache
def _saved(kind: type) -> list[str]:
    """The attributes of a kind of node that may hold tensors."""
    return [name for name in dir(kind) if name.startswith("_saved_")]
