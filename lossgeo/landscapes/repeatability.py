"""Whether a model gives the same loss and gradient twice: without that, no curvature means anything.

Dropout is off and batch norm does not move its statistics while a landscape is measured, but a layer of the user's may
draw random numbers of its own or keep a state. The answer belongs to the model, not to the point, so it is found once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from lossgeo.landscapes.landscape import Landscape

# roundoff that a GPU may add from one pass to the next, in units of the precision; on the CPU there is none
SLACK = 1000.0


@torch.random.fork_rng(devices=[])
def require_repeatable(
    landscape: Landscape, gradient: Callable[[], torch.Tensor], forward: Callable[[], object]
) -> float:
    """The seconds that one call of `gradient` takes, where it gives the same twice; `forward` is a pass of the model.

    Cost: two gradients; for naming the layer, two passes more.

    Raises:
        ValueError: the gradients differ, or a buffer moves; names the layer.
    """
    before = landscape.flat.buffers()
    begin = time.perf_counter()
    first = gradient()
    seconds = time.perf_counter() - begin
    torch.rand(())  # every pass puts torch's generator back: a layer that draws from it would draw the same again
    begin = time.perf_counter()
    second = gradient()
    seconds = min(seconds, time.perf_counter() - begin)  # the first one may have had to warm up
    moved = [name for name, b in landscape.flat.buffers().items() if not torch.equal(b, before[name])]
    if moved:
        landscape.flat.restore(before)
        raise ValueError(
            f"the model changes its buffer {moved[0]!r} while it is measured, as a batch norm in training mode does; "
            "let the layer follow model.eval(), or use `batch_norm: batch`"
        )
    apart, scale = float(torch.linalg.vector_norm(first - second)), float(torch.linalg.vector_norm(first))
    if apart > SLACK * torch.finfo(first.dtype).eps * scale:  # a gradient of NaN is what it is, twice
        raise ValueError(
            f"the model's gradient differs from one pass to the next by {apart / scale:.1g} of itself; "
            f"{_culprit(landscape, forward)}; let it follow model.eval(), as nn.Dropout does, or draw its noise once"
        )
    return seconds


def _culprit(landscape: Landscape, forward: Callable[[], object]) -> str:
    """The innermost layer that gave two outputs for one input, in words."""
    passes: list[list[tuple[str, Any, Any]]] = []
    modules = dict(landscape.module.named_modules())
    for _ in range(2):
        torch.rand(())
        seen: list[tuple[str, Any, Any]] = []

        def note(name: str, inputs: Any, output: Any, seen: list[tuple[str, Any, Any]] = seen) -> None:
            seen.append((name, _copied(inputs), _copied(output)))

        handles = [
            module.register_forward_hook(lambda _, inputs, output, name=name: note(name, inputs, output))
            for name, module in modules.items()
        ]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        passes.append(seen)
    differing = [
        name
        for (name, inputs, output), (_, again, other) in zip(*passes, strict=False)
        if _equal(inputs, again) and not _equal(output, other)
    ]
    if not differing:
        return "no layer differs on its own"
    name = max(differing, key=lambda name: name.count(".") + bool(name))
    return f"layer {name or 'the model itself'!r} ({type(modules[name]).__name__}) gives two outputs for one input"


def _copied(value: Any) -> list[torch.Tensor]:
    values = value if isinstance(value, tuple | list) else [value]
    return [v.detach().clone() for v in values if isinstance(v, torch.Tensor)]


def _equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
