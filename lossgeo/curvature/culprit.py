"""Which layer has a second derivative that is not that of its gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lossgeo.curvature.differences import Tensors, mismatched
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.flat_module import shrunk
from lossgeo.landscapes.rehearsal import CANNOT


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
    """By itself, on what it was given; the square of its outputs, so that what comes back into it depends on them.

    Large inputs are taken at size 1: where a layer is saturated, its derivatives are rounding.
    """
    args, kwargs = _map((args, kwargs), lambda t: shrunk(t, 1.0) if t.is_floating_point() else t)
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

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _map(value, note)
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
