"""Which tensors of a module can be a part of theta, and how all of them take another precision.

Theta is one dense vector of real numbers. A parameter that is something else would become another number on its way
into it, in silence, and so it is refused with the way out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lossgeo.errors import UsageError


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In another precision: complex numbers stay complex, and whole ones stay whole."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def converted(module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """The module itself, its tensors in another precision and place, and its embeddings with dense gradients.

    Raises:
        UsageError: a parameter cannot be a part of theta.
    """
    require_plain(module)
    # nn.Module.to drops the imaginary parts of complex buffers
    complex_ = [(place, name, b) for place, name, b in floating_buffers(module) if b.is_complex()]
    for place, name, _ in complex_:
        place[name] = None
    module.to(device=device, dtype=dtype)
    for place, name, buffer in complex_:
        place[name] = cast(buffer, dtype).to(device)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False  # the same gradient, which has to fit into a vector (P,) in any case
    return module


def floating_buffers(module: nn.Module) -> Iterator[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]]:
    """Every buffer that has a precision, with the place where it stands; complex ones too."""
    for owner in module.modules():
        for name, buffer in list(owner._buffers.items()):
            if buffer is not None and (buffer.is_floating_point() or buffer.is_complex()):
                yield owner._buffers, name, buffer


def require_plain(module: nn.Module) -> None:
    """Refuse parameters that theta cannot hold as they are.

    Raises:
        UsageError: one is not initialized or has no data, is complex or of integers, sparse, of another precision than
            the first, made in inference mode, or shares memory with another one.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise UsageError(
                f"{name!r} is not initialized yet: give lazy layers their sizes, or pass one input through "
                "the model before `build` returns it"
            )
        if tensor.is_meta:
            raise UsageError(f"{name!r} is on the meta device and has no values: build the model on the cpu")
    parameters = list(module.named_parameters())
    for name, parameter in parameters:
        kind = str(parameter.dtype).removeprefix("torch.")
        if parameter.is_complex():
            raise UsageError(
                f"parameter {name!r} is {kind}, and theta is real: keep torch.view_as_real(value) as the parameter and "
                "use torch.view_as_complex of it in forward"
            )
        if not parameter.is_floating_point():
            raise UsageError(
                f"parameter {name!r} is {kind}, and theta is of real numbers: keep it with register_buffer, which "
                "leaves it as it is"
            )
        if parameter.layout != torch.strided:
            raise UsageError(f"parameter {name!r} has layout {parameter.layout}, and theta is dense: use to_dense()")
        if parameter.is_inference():
            raise UsageError(
                f"parameter {name!r} was made in inference mode and cannot be differentiated: build the model outside"
            )
        first, other = parameters[0]
        if parameter.dtype != other.dtype:
            raise UsageError(
                f"parameters of two precisions: {first!r} is {str(other.dtype).removeprefix('torch.')} and {name!r} is "
                f"{kind}; build all in one, the recipe's `dtype` sets what they are trained in"
            )
    _require_apart(parameters)


def _require_apart(parameters: list[tuple[str, nn.Parameter]]) -> None:
    """Refuse parameters that have numbers in common, which would be independent ones in theta."""
    groups: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in parameters:
        if parameter.numel():
            groups[parameter.untyped_storage().data_ptr()].append((name, parameter))
    for sharing in groups.values():
        if len(sharing) == 1 and 0 not in sharing[0][1].stride():
            continue
        numbers = sharing[0][1].untyped_storage().nbytes() // sharing[0][1].element_size()
        places = torch.arange(numbers)
        taken = torch.zeros(numbers, dtype=torch.bool)
        for name, parameter in sharing:
            own = places.as_strided(parameter.shape, parameter.stride(), parameter.storage_offset()).reshape(-1)
            if taken[own].any():
                other = next(n for n, _ in sharing)
                raise UsageError(
                    f"parameters {other!r} and {name!r} are two that share memory: tie them by assigning the same "
                    "nn.Parameter, or clone one"
                )
            taken[own] = True
            if len(own) > len(set(own.tolist())):
                raise UsageError(
                    f"parameter {name!r} has elements that share memory, as expand() makes: clone it, or expand in "
                    "forward"
                )
