"""What a model and its loss do beside giving a number, found by trying them once before anything is trained.

What a layer does cannot be read off its type: users write their own. A gradient of a few examples in either mode, on
copies, shows whether the data or the parameters are changed and what a backward pass runs. Outputs of a few examples,
together and in two parts, show whether examples depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from lossgeo.errors import UsageError
from lossgeo.landscapes.flat_module import FlatModule, near
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.task import Examples

HANDFUL = 8  # examples that are compared, together and in parts of 3 and 5: parts of equal size would keep pairs
# between the two, relative: sums in another order, in layers that compute in float32 whatever they are given too
SAME = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
# what layers raise when the number of examples does not suit them
CANNOT = (RuntimeError, ValueError, IndexError, AssertionError)


class Backward(NamedTuple):
    """What a backward pass of a model's loss runs."""

    recomputes: bool  # Python code: parts of the forward pass again, as activation checkpointing does
    weight_norm: bool  # torch's fused weight norm


class Together(NamedTuple):
    """Whether examples depend on those that are evaluated with them."""

    outputs: bool  # a model's outputs
    losses: bool  # a loss, of given outputs


def handful(examples: Examples) -> Examples:
    """A few examples from all over a set, copied."""
    which = torch.linspace(0, examples.size - 1, min(HANDFUL, examples.size)).round().long()
    return examples.rows(which.to(examples.inputs.device))


def rehearsed(flat: FlatModule, loss: Loss, examples: Examples) -> Backward:
    """What a backward pass runs, in training and in measuring mode; costs two gradients of the examples.

    Raises:
        UsageError: the model or the loss changes its data or the parameters, or has no gradient that fits into theta.
    """
    modes = [_gradient(flat, loss, examples, training) for training in (True, False)]
    return Backward(*(any(either) for either in zip(*modes, strict=True)))


def _gradient(flat: FlatModule, loss: Loss, examples: Examples, training: bool) -> Backward:
    theta = flat.theta()
    given = Examples(*(t.clone() for t in examples))
    versions = [t._version for t in given]
    modes = [(m, m.training) for m in flat.module.modules()]
    flat.module.train(training)
    try:
        with flat.buffers_kept(), flat.seeded(0), torch.enable_grad():
            value = loss.mean(flat.module(given.inputs), given.targets)
            nodes = list(graph_nodes([value]))
            backward = Backward(
                recomputes=any(_runs_python(node) for node in nodes),
                weight_norm=any(type(node).__name__.startswith("WeightNorm") for node in nodes),
            )
            pieces = torch.autograd.grad(value, flat.learning, allow_unused=True) if value.requires_grad else ()
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise UsageError(
            "the model checkpoints activations with use_reentrant=True, which torch.autograd.grad does not support: "
            "call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    own = {id(p) for p in flat.parameters}
    strangers = [node.variable for node in nodes if hasattr(node, "variable") and id(node.variable) not in own]
    if strangers:
        raise UsageError(
            f"a tensor of shape {tuple(strangers[0].shape)} that requires a gradient is no parameter of the model, so "
            "that it would never be trained: make it an nn.Parameter of a module, or call requires_grad_(False)"
        )
    for what, before, after, version in zip(("inputs", "targets"), examples, given, versions, strict=True):
        if after._version != version or not _equal(before, after):
            raise UsageError(
                f"the model or its loss changes the {what} it is given, as `x /= 2` or a first layer with inplace=True "
                "does, so that the data would be others at every pass: let it work on a copy, as in `x = x / 2`"
            )
    for parameter, before in zip(flat.parameters, torch.split(theta, flat.sizes), strict=True):
        if not _equal(parameter.detach().reshape(-1), before):
            name = next(n for n, p in flat.module.named_parameters() if p is parameter)
            with torch.no_grad():
                parameter.copy_(before.view(parameter.shape))
            raise UsageError(
                f"the model changes its parameter {name!r} in forward, as nn.Embedding(max_norm=...) does, so that no "
                "point stays where it is: compute the changed value from the parameter and leave that as it is"
            )
    for parameter, piece in zip(flat.learning, pieces, strict=False):
        if piece is not None and piece.layout != torch.strided:
            name = next(n for n, p in flat.module.named_parameters() if p is parameter)
            raise UsageError(f"the gradient of parameter {name!r} is sparse, and theta is dense: leave sparse=True out")
    return backward


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())  # NaN is what it is


def graph_nodes(outputs: list[torch.Tensor | None]) -> Iterator[Any]:
    """Every node of the graph behind tensors, once."""
    waiting: list[Any] = [t.grad_fn for t in outputs if t is not None and t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        following = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= following
        waiting += following


def hooked(node: Any, name: str) -> bool:
    """Whether what a node saved under a name comes back through a hook, which may compute it anew."""
    raw = getattr(node, f"_raw{name}", None)
    several = raw if isinstance(raw, list | tuple) else [raw]
    return any(getattr(one, "unpack_hook", None) is not None for one in several)


def _runs_python(node: Any) -> bool:
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return True
    return any(hooked(node, name) for name in dir(type(node)) if name.startswith("_saved_"))


def together(flat: FlatModule, loss: Loss, examples: Examples, dtype: torch.dtype) -> Together:
    """Whether outputs and losses of a few examples are others when these are evaluated in two parts.

    At a point close by, since a layer that starts at zero hides what it does. Costs three forward passes.
    """
    if examples.size < 2:
        return Together(False, False)
    start = flat.theta()
    try:
        for precision in dict.fromkeys((torch.float64, dtype)):  # a model may not run in another one than its own
            try:
                return _compared(flat, loss, examples, precision, start)
            except (RuntimeError, TypeError) as error:
                failed = error
        raise failed
    finally:
        flat.go_to(start)


def _compared(flat: FlatModule, loss: Loss, examples: Examples, dtype: torch.dtype, start: torch.Tensor) -> Together:
    inputs, targets = (t.to(dtype) if t.is_floating_point() else t for t in examples)
    first = max(1, 3 * examples.size // HANDFUL)
    parts = (slice(0, first), slice(first, None))
    same = SAME[dtype]
    for theta in (near(start, flat.sizes, dtype), start.to(dtype)):
        with flat.measuring(theta), torch.no_grad():
            whole, again = (flat.module(inputs.clone()) for _ in range(2))
            if not torch.equal(whole, again) and bool(whole.isfinite().all()):
                return Together(False, False)  # a model that draws random numbers tells nothing; it is refused later
            try:
                split = torch.cat([flat.module(inputs[part].clone()) for part in parts])
            except CANNOT:
                return Together(True, _losses(loss, whole, targets, parts, same))  # it takes no other number of them
        if bool(whole.isfinite().all()):
            break
    return Together(_differ(whole, split, same), _losses(loss, whole, targets, parts, same))


@torch.no_grad()
def _losses(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, parts: tuple[slice, slice], same: float) -> bool:
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(outputs.shape, generator=stream, dtype=torch.float64).to(outputs)
    weight = loss.weight(targets)
    if weight == 0:
        return False
    for given in (outputs, outputs + noise):  # outputs that are all alike hide what a loss makes of the others
        try:
            whole = loss.mean(given.clone(), targets.clone())
        except CANNOT:
            continue
        try:
            pieces = [
                loss.mean(given[part].clone(), targets[part].clone()) * (loss.weight(targets[part]) / weight)
                for part in parts
            ]
            each = loss.each(given.clone(), targets.clone()).sum() / weight
        except CANNOT:
            return True
        if _differ(whole, sum(pieces, torch.zeros_like(whole)), same) or _differ(whole, each.to(whole), same):
            return True
    return False


def _differ(a: torch.Tensor, b: torch.Tensor, same: float) -> bool:
    """Whether two tensors are others by more than rounding; what is not finite tells nothing."""
    if a.shape != b.shape:
        return True
    apart, scale = (a - b).abs().max(), a.abs().max()
    return bool(torch.isfinite(apart)) and bool(apart > same * scale)
