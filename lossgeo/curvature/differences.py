"""A second derivative held against differences of the first, where these can tell.

Differences disagree with right products too, where a kink of a ReLU lies between the two points, or where rounding is
all there is. So a difference counts only where it is the same with a step ten times smaller: what a kink adds to it is
then ten times as much. And it has to be above the rounding of what cancels in the gradient: where softmax is 1 to the
last digit, softmax and target leave the same zero at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from lossgeo.landscapes.flat_module import relative

STEPS = (1e-6, 1e-7, 1e-8)  # relative to the size of each parameter; rounding leaves 1e-10 to 1e-8 of the gradient
RIGHT = 1e-6  # of a product, up to which a difference agrees with it
ROUNDING = 1e-8  # of a gradient, over a step of 1e-6 and some tens of roundings
STEADY = 0.1  # of the mismatch, up to which two differences are the same
FAINT = 1e-6  # of a gradient, up to which its derivative by a relative change tells nothing of the rest
ASYMMETRY = 1e-3  # of a product in float32, and of layers that compute in float32 whatever they are given: agreement

Tensors = list[torch.Tensor]


def mismatched(
    value: Callable[[], torch.Tensor],
    leaves: Sequence[torch.Tensor],
    seed: int,
    floors: Callable[[], list[float]] | None = None,
) -> bool | None:
    """Whether the product of the Hessian of `value` by `leaves` is not what differences of the gradient say.

    The leaves are moved in place and put back. `floors` are the sizes of gradients, by leaf, that rounding is to be
    compared to. None: something is not finite, all of the product is zero beside the gradient, or the difference is
    below the rounding of the floors.
    """
    stream = torch.Generator().manual_seed(seed)
    along = [relative(leaf.detach(), stream) for leaf in leaves]
    start = [leaf.detach().clone() for leaf in leaves]

    def gradient(h: float, graph: bool = False) -> Tensors:
        for leaf, origin, u in zip(leaves, start, along, strict=True):
            leaf.data.copy_(origin + h * u if h else origin)
        result = value()
        if not result.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(result, leaves, create_graph=graph, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]

    try:
        product = _product(gradient(0.0, graph=True), leaves, along)
        if leaves[0].dtype != torch.float64:  # differences in float32 do not tell a wrong product from a kink
            return _unsymmetric(gradient(0.0, graph=True), leaves, along, product, stream)
        return against_differences(product, gradient, floors)
    finally:
        for leaf, origin in zip(leaves, start, strict=True):
            leaf.data.copy_(origin)


def _product(gradient: Tensors, leaves: Sequence[torch.Tensor], along: Tensors) -> Tensors:
    pairs = [(g, u) for g, u in zip(gradient, along, strict=True) if g.requires_grad]
    found: Sequence[torch.Tensor | None] = [None] * len(leaves)
    if pairs:
        found = torch.autograd.grad([g for g, _ in pairs], leaves, [u for _, u in pairs], allow_unused=True)
    return [torch.zeros_like(leaf) if p is None else p for leaf, p in zip(leaves, found, strict=True)]


def _unsymmetric(
    gradient: Tensors, leaves: Sequence[torch.Tensor], along: Tensors, product: Tensors, stream: torch.Generator
) -> bool | None:
    other = [relative(leaf.detach(), stream) for leaf in leaves]
    swapped = _product(gradient, leaves, other)
    one, two = _dot(product, other), _dot(swapped, along)
    if not math.isfinite(one + two):
        return None
    return abs(one - two) > ASYMMETRY * math.sqrt(_dot(product, product) * _dot(other, other))


def against_differences(
    product: Tensors, gradient: Callable[[float], Tensors], floors: Callable[[], list[float]] | None = None
) -> bool | None:
    """Whether a product is steadily another than differences of `gradient`, which takes a step; as in `mismatched`."""
    if not all(bool(p.isfinite().all()) for p in product):
        return None
    suspects = list(range(len(product)))
    before: Tensors | None = None
    for h in STEPS:
        plus, minus = gradient(h), gradient(-h)
        if not all(bool(g.isfinite().all()) for g in (*plus, *minus)):
            return None
        difference = [(p - m) / (2 * h) for p, m in zip(plus, minus, strict=True)]
        apart = [size(d - p) for d, p in zip(difference, product, strict=True)]
        suspects = [
            b
            for b in suspects
            if apart[b] > RIGHT * max(size(product[b]), size(difference[b])) + ROUNDING * size(plus[b])
        ]
        if not suspects:
            faint = all(size(p) <= FAINT * size(g) for p, g in zip(product, plus, strict=True))
            return None if faint else False
        if before is not None:
            # where a kink lies between the points, or where rounding is all there is, two differences are not the same
            steady = [
                b
                for b in suspects
                if size(difference[b] - before[b]) <= STEADY * min(apart[b], size(before[b] - product[b]))
            ]
            if steady and floors is not None:
                gradient(0.0)
                scales = floors()
                return any(apart[b] > ROUNDING * scales[b] for b in steady) or None
            if steady:
                return True
        before = difference
    return False


def size(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach()))


def _dot(a: Tensors, b: Tensors) -> float:
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))
