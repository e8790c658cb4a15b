"""The nonlinearities that every family of models offers, by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["tanh", "relu", "gelu", "silu", "sigmoid", "softplus", "identity"]

_MODULES: dict[Activation, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def activation_module(name: Activation) -> nn.Module:
    """The nonlinearity of that name, elementwise and without parameters."""
    return _MODULES[name]()
