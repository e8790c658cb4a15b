"""Whether autograd's second derivatives are derivatives of its first ones: asked once for a landscape and a mode.

A layer may get its gradient right and the gradient's derivative wrong, without an error: a fused kernel of torch's, a
custom function that is differentiable once or keeps an intermediate on ctx, a value that was detached. The product with
the Hessian is then another map, often no symmetric one. Two checks, on a few of the examples, in float64:

    (g(theta + h u) - g(theta - h u)) / 2h = H u      for the Hessian, u random
    u . J v = v . J'u                                 for the Jacobian, exact but for rounding

Differences disagree with right products too, where a kink of a ReLU lies between the two points, or where rounding is
all there is. So a difference counts only where it is the same with a step ten times smaller: what a kink adds to it is
then ten times as much. The point is taken close to theta, where no kink lies by construction, and a mismatch has to
come back at a second one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.flat_module import near, relative
from lossgeo.landscapes.rehearsal import CANNOT, handful
from lossgeo.landscapes.task import Examples

STEPS = (1e-6, 1e-7, 1e-8)  # relative to the size of each parameter; rounding leaves 1e-10 to 1e-8 of the gradient
RIGHT = 1e-6  # of a product, up to which a difference agrees with it
ROUNDING = 1e-8  # of a gradient, over a step of 1e-6 and some tens of roundings
STEADY = 0.1  # of the mismatch, up to which two differences are the same
VECTORS = 12  # that the checks hold at once
ADJOINT = 1e-8  # of |u| |J v|: sums in another order
ASYMMETRY = 1e-3  # the same of a product in float32, and of layers that compute in float32 whatever they are given

Tensors = list[torch.Tensor]


def require_hessian(here: LocalLoss) -> None:
    """Refuse products with a Hessian that is not the derivative of the gradient.

    Cost: once for a landscape and a mode, three passes of 8 examples where the product agrees; 15 more before it is
    refused, and some for each layer.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("hessian", here.mode), lambda: _held(here, _hessian_is_wrong))


def require_adjoint(here: LocalLoss) -> None:
    """Refuse products with the Jacobian of the outputs that do not belong to those with its transpose.

    Cost: once for a landscape and a mode, a pass of 8 examples; more before it is refused, as for the Hessian.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("adjoint", here.mode), lambda: _held(here, _adjoint_is_wrong))


def require_jacobian(here: LocalLoss) -> None:
    """Refuse products with a Jacobian that is not the derivative of the outputs, as where a gradient is made up.

    Cost: once for a landscape and a mode, three passes of 8 examples; more before it is refused.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("jacobian", here.mode), lambda: _held(here, _jacobian_is_wrong))


def require_curved_loss(here: LocalLoss) -> None:
    """Refuse a loss whose second derivative by the outputs is not the derivative of its first.

    Cost: once for a landscape and a mode, a pass of 8 examples.

    Raises:
        ValueError: names the loss.
    """
    here.landscape.once(("loss", here.mode), lambda: _held(here, _loss_is_wrong))


def _held(here: LocalLoss, is_wrong: Callable[[LocalLoss, int], bool | None]) -> float:
    """1.0 where nothing is wrong; NaN where it cannot be told, as where the loss is not finite."""
    theta = here.theta
    sizes = here.landscape.flat.sizes
    # differences hold a dozen vectors
    affordable = VECTORS * 8 * here.theta.numel() <= here.memory
    try:
        for precision in (torch.float64, here.dtype) if affordable else (here.dtype,):
            tried = here.at_few(handful(here.examples), near(theta, sizes, precision))
            try:
                wrong = is_wrong(tried, 0)
            except CANNOT as error:
                if "deriv" in str(error) or "differentia" in str(error):
                    found = culprit(tried) or "some layer"
                    raise ValueError(
                        f"autograd has no second derivative of {found} ({str(error).partition(chr(10))[0][:120]}): use "
                        "`operator: finite_difference`, or write the layer in other operations"
                    ) from error
                if precision == here.dtype:
                    return math.nan  # the measurement itself will say what it is
                continue
            if wrong is None and not torch.equal(tried.theta, theta.to(precision)):
                tried = here.at_few(handful(here.examples), theta.to(precision).clone())
                wrong = is_wrong(tried, 0)
            if wrong is None:
                return math.nan
            if wrong and is_wrong(tried, 1):
                found = culprit(tried) or "no layer shows it on its own"
                raise ValueError(
                    f"autograd's second derivative is not that of the gradient, by differences: {found}; a custom "
                    "function that is differentiable once, keeps an intermediate on ctx or detaches a value does this: "
                    "write its backward in differentiable operations on ctx.saved_tensors, or use `operator: "
                    "finite_difference`"
                )
            return 1.0
    finally:
        here.landscape.flat.go_to(theta)
    return math.nan


# --- the checks ------------------------------------------------------------------------------------------------------


def _hessian_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    (piece, share), *_ = here.pieces()

    def value() -> torch.Tensor:
        return share * here.loss.mean(here.landscape.module(piece.inputs), piece.targets)

    with here.measuring(here.theta), torch.enable_grad():
        return mismatched(value, list(here.learning), seed)


def _pushed(here: LocalLoss, stream: torch.Generator) -> tuple[Examples, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The examples, their outputs with the graph, a random vector v (P,) and J v, like the outputs."""
    (piece, _), *_ = here.pieces()
    outputs = here.outputs(piece.inputs)
    dummy = torch.zeros_like(outputs, requires_grad=True)
    pulled = here.derivatives((outputs,), (dummy,), graph=True)
    pieces = [relative(p.detach(), stream) for p in here.learning]
    (pushed,) = here.derivatives(pulled, pieces, keep=True, by=(dummy,))
    vector = here.flat(tuple(pieces))
    return piece, outputs, vector, torch.zeros_like(outputs) if pushed is None else pushed


def _adjoint_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    stream = torch.Generator().manual_seed(seed)
    _, outputs, vector, pushed = _pushed(here, stream)
    cotangent = torch.randn(outputs.shape, generator=stream, dtype=torch.float64).to(outputs)
    one = float((cotangent * pushed).sum())
    other = float((here.flat(here.derivatives((outputs,), (cotangent,))) * vector).sum())
    if not math.isfinite(one + other):
        return None
    apart, scale = abs(one - other), max(abs(one), abs(other), _size(pushed) * _size(cotangent))
    # a layer that computes in float32 is no wrong one: between the two it has to be found
    slack = ADJOINT if here.dtype == torch.float64 else ASYMMETRY
    return apart > ASYMMETRY * scale or (apart > slack * scale and culprit(here) is not None)


def _jacobian_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    if here.dtype != torch.float64:
        return False
    piece, outputs, vector, pushed = _pushed(here, torch.Generator().manual_seed(seed))
    del outputs
    return _against_differences([pushed], lambda h: [here.outputs(piece.inputs, here.theta + h * vector).detach()])


def _loss_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    if here.dtype != torch.float64:
        return False
    (piece, _), *_ = here.pieces()
    outputs = here.outputs(piece.inputs).detach()
    along = relative(outputs, torch.Generator().manual_seed(seed))
    product = here.loss.hvp(outputs, piece.targets, along)
    return _against_differences([product], lambda h: [here.loss.gradient(outputs + h * along, piece.targets)[1]])


def mismatched(value: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor], seed: int) -> bool | None:
    """Whether the product of the Hessian of `value` by `leaves` is not what differences of the gradient say.

    The leaves are moved in place and put back. None: something is not finite.
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
        return _against_differences(product, gradient)
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


def _against_differences(product: Tensors, gradient: Callable[[float], Tensors]) -> bool | None:
    if not all(bool(p.isfinite().all()) for p in product):
        return None
    suspects = list(range(len(product)))
    before: Tensors | None = None
    for h in STEPS:
        plus, minus = gradient(h), gradient(-h)
        if not all(bool(g.isfinite().all()) for g in (*plus, *minus)):
            return None
        difference = [(p - m) / (2 * h) for p, m in zip(plus, minus, strict=True)]
        apart = [_size(d - p) for d, p in zip(difference, product, strict=True)]
        suspects = [
            b
            for b in suspects
            if apart[b] > RIGHT * max(_size(product[b]), _size(difference[b])) + ROUNDING * _size(plus[b])
        ]
        if not suspects:
            return False
        if before is not None:
            # where a kink lies between the points, or where rounding is all there is, two differences are not the same
            steady = [
                b
                for b in suspects
                if _size(difference[b] - before[b]) <= STEADY * min(apart[b], _size(before[b] - product[b]))
            ]
            if steady:
                return True
        before = difference
    return False


def _size(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach()))


def _dot(a: Tensors, b: Tensors) -> float:
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))


# --- naming ----------------------------------------------------------------------------------------------------------


def culprit(here: LocalLoss) -> str | None:
    """The innermost layer, else the loss, whose own second derivatives are not those of its gradient, in words."""
    (piece, _), *_ = here.pieces()
    calls: dict[str, tuple[Any, Any]] = {}
    modules = dict(here.landscape.module.named_modules())

    def note(name: str, args: Any, kwargs: Any) -> None:
        calls.setdefault(name, (_detached(args), _detached(kwargs)))

    handles = [
        m.register_forward_pre_hook(lambda _, args, kwargs, name=name: note(name, args, kwargs), with_kwargs=True)
        for name, m in modules.items()
    ]
    try:
        outputs = here.outputs(piece.inputs).detach()
    finally:
        for handle in handles:
            handle.remove()
    with here.measuring(here.theta), torch.enable_grad():
        for name in sorted(calls, key=lambda name: -name.count(".") - bool(name)):
            if _layer_is_wrong(modules[name], *calls[name]):
                return f"layer {name or 'the model itself'!r} ({type(modules[name]).__name__})"
        leaf = outputs.requires_grad_()
        if mismatched(lambda: here.loss.mean(leaf, piece.targets), [leaf], 0):
            return f"loss {here.loss.component_name()!r}"
    return None


def _layer_is_wrong(layer: nn.Module, args: Any, kwargs: Any) -> bool:
    """By itself, on what it was given; the square of its outputs, so that what comes back into it depends on them."""
    leaves = [t.requires_grad_() for t in _tensors((args, kwargs)) if t.is_floating_point()]
    leaves += [p for p in layer.parameters() if p.requires_grad]
    if not leaves:
        return False

    def value() -> torch.Tensor:
        # a copy of the arguments, which a layer may write into
        given = _map((args, kwargs), lambda t: t.clone() if t.is_floating_point() else t)
        outputs = [o for o in _tensors(layer(*given[0], **given[1])) if o.is_floating_point()]
        return sum(((o + o.square() / 2).sum() for o in outputs), leaves[0].new_zeros(()))

    try:
        return bool(mismatched(value, leaves, 0))
    except CANNOT:
        return True  # it says itself that it cannot be differentiated twice


def _tensors(value: Any) -> Tensors:
    found: Tensors = []
    _map(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def _detached(value: Any) -> Any:
    return _map(value, lambda t: t.detach().clone())


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nest of tuples, lists and dicts, its tensors replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(v, function) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_map(v, function) for v in value)
    return copy.copy(value)
