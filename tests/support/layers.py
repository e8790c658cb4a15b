"""Torch's layers and functions, each in a network of a few parameters, and such as torch cannot differentiate twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from tests.support.networks import CLASSES

FEATURES = 6


class Applied(nn.Module):
    """A function of the module itself and of its inputs, with the layers and parameters that it needs."""

    def __init__(
        self, function: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def between(layer: nn.Module, before: int = 4, after: int = 4) -> nn.Module:
    """A layer from `before` to `after` numbers between two linear ones."""
    return nn.Sequential(nn.Linear(FEATURES, before), layer, nn.Linear(after, CLASSES))


def function(f: Callable[[torch.Tensor], torch.Tensor], before: int = 4, after: int = 4) -> Callable[[], nn.Module]:
    return lambda: between(Applied(lambda _, x: f(x)), before, after)


def shaped(layer: nn.Module, shape: tuple[int, ...], after: int) -> nn.Module:
    """A layer that takes numbers in a shape, between two linear ones."""
    size = int(torch.tensor(shape).prod())
    return between(Applied(lambda m, x: m.layer(x.unflatten(1, shape)).flatten(1), layer=layer), size, after)


def matrices(f: Callable[[torch.Tensor], torch.Tensor], after: int) -> Callable[[], nn.Module]:
    """A function of symmetric positive definite matrices (B, 3, 3)."""

    def positive(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = x.unflatten(1, (3, 3))
        result = f(a @ a.mT + torch.diag(torch.tensor([1.0, 2.0, 3.5])).to(a))
        return result.reshape(len(x), -1)

    return lambda: between(Applied(positive), 9, after)


def attention(**parts: nn.Module) -> nn.Module:
    (layer,) = parts.values()

    def attend(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(1, (2, 2))
        return (
            m.layer(x, x, x, need_weights=False)[0] if isinstance(layer, nn.MultiheadAttention) else m.layer(x)
        ).flatten(1)

    return between(Applied(attend, layer=layer))


def recurrent(layer: nn.Module) -> nn.Module:
    return between(Applied(lambda m, x: m.layer(x.unflatten(1, (2, 2)))[0][:, -1], layer=layer), 4, 2)


def bags(layer: nn.Module, offsets: bool = False) -> nn.Module:
    """Ids made of the signs of the inputs."""

    def embed(m: Any, x: torch.Tensor) -> torch.Tensor:
        ids = (x[:, :3] > 0).long() + torch.tensor([0, 1, 2])
        return m.layer(ids) if offsets else m.layer(ids).flatten(1)

    return nn.Sequential(Applied(embed, layer=layer), nn.Tanh(), nn.Linear(3 if offsets else 9, CLASSES))


def parametrized(change: Callable[[nn.Linear], nn.Module], outputs: int = 4) -> nn.Module:
    return nn.Sequential(change(nn.Linear(FEATURES, outputs)), nn.Tanh(), nn.Linear(outputs, CLASSES))


class Positive(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return functional.softplus(w)


class Smooth(torch.autograd.Function):
    """tanh, its backward of differentiable operations on what was saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return slope * (1 - torch.tanh(x) ** 2)


class Once(torch.autograd.Function):
    """x + x^3 / 3, differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x + x**3 / 3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return slope * (1 + x**2)


class Doubled(torch.autograd.Function):
    """2 x, differentiable once: the second derivative is zero, and yet the gradient's passes through it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return 2 * slope


class Kept(torch.autograd.Function):
    """tanh with its output kept on ctx, where autograd does not see it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.out = torch.tanh(x)
        return ctx.out.clone()

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope * (1 - ctx.out**2)


class Symmetric(torch.autograd.Function):
    """x^2 / 2 whose backward keeps x: the Hessian of a sum of these alone is symmetric, and zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.x = x.detach()
        return x**2 / 2

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope * ctx.x


class Rounded(torch.autograd.Function):
    """Rounded to eighths, with the gradient of what was not rounded."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope


def sampled_grid(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    images = torch.linspace(-1, 1, 9, dtype=x.dtype).sin().view(1, 1, 3, 3).expand(len(x), -1, -1, -1)
    return functional.grid_sample(images, torch.tanh(x).view(-1, 2, 1, 2), align_corners=False).flatten(1)


def scattered(x: torch.Tensor) -> torch.Tensor:
    index = torch.tensor([0, 1, 0, 2]).expand(len(x), -1)
    return torch.zeros(len(x), 3, dtype=x.dtype).scatter_add(1, index, x**2)


def stabilized(x: torch.Tensor) -> torch.Tensor:
    """log of the cumulative sum of exp x, by the largest x, which a detached number may stand for."""
    largest = x.amax(1, keepdim=True).detach()
    return (x - largest).exp().cumsum(1).log() + largest


# every layer and function, one a line
LAYERS: dict[str, Callable[[], nn.Module]] = {
    # activations, with kinks and without
    "ReLU": lambda: between(nn.ReLU()),
    "ReLU in place": lambda: between(nn.ReLU(inplace=True)),
    "ReLU6": lambda: between(nn.ReLU6()),
    "LeakyReLU": lambda: between(nn.LeakyReLU()),
    "PReLU": lambda: between(nn.PReLU(4)),
    "RReLU": lambda: between(nn.RReLU()),
    "ELU": lambda: between(nn.ELU()),
    "CELU": lambda: between(nn.CELU()),
    "SELU": lambda: between(nn.SELU()),
    "GELU": lambda: between(nn.GELU()),
    "GELU by tanh": lambda: between(nn.GELU(approximate="tanh")),
    "SiLU": lambda: between(nn.SiLU()),
    "Mish": lambda: between(nn.Mish()),
    "Softplus with a threshold": lambda: between(nn.Softplus(beta=2, threshold=1)),
    "Softsign": lambda: between(nn.Softsign()),
    "Tanh": lambda: between(nn.Tanh()),
    "Hardtanh": lambda: between(nn.Hardtanh(-0.3, 0.3)),
    "Hardswish": lambda: between(nn.Hardswish()),
    "Softshrink": lambda: between(nn.Softshrink(0.2)),
    "Hardshrink": lambda: between(nn.Hardshrink(0.2)),
    "Tanhshrink": lambda: between(nn.Tanhshrink()),
    "LogSigmoid": lambda: between(nn.LogSigmoid()),
    "GLU": lambda: between(nn.GLU(), 4, 2),
    "Softmax": lambda: between(nn.Softmax(1)),
    "LogSoftmax": lambda: between(nn.LogSoftmax(1)),
    "Softmin": lambda: between(nn.Softmin(1)),
    # normalization
    "BatchNorm1d": lambda: between(nn.BatchNorm1d(4)),
    "LayerNorm": lambda: between(nn.LayerNorm(4)),
    "RMSNorm": lambda: between(nn.RMSNorm(4)),
    "GroupNorm": lambda: between(nn.GroupNorm(2, 4)),
    "InstanceNorm1d": lambda: shaped(nn.InstanceNorm1d(2, affine=True), (2, 3), 6),
    "LocalResponseNorm": lambda: shaped(nn.LocalResponseNorm(2), (4, 2), 8),
    "normalize": function(lambda x: functional.normalize(x, dim=1)),
    # convolutions, pooling, reshaping
    "Conv1d": lambda: shaped(nn.Conv1d(2, 2, 2), (2, 4), 6),
    "Conv1d, grouped and dilated": lambda: shaped(nn.Conv1d(2, 2, 2, dilation=2, groups=2), (2, 4), 4),
    "Conv2d": lambda: shaped(nn.Conv2d(1, 1, 2, padding=1, padding_mode="circular"), (1, 3, 2), 12),
    "ConvTranspose1d": lambda: shaped(nn.ConvTranspose1d(2, 1, 2, stride=2), (2, 2), 4),
    "ConvTranspose2d": lambda: shaped(nn.ConvTranspose2d(1, 1, 2), (1, 2, 2), 9),
    "MaxPool1d": lambda: shaped(nn.MaxPool1d(2), (2, 4), 4),
    "MaxPool2d": lambda: shaped(nn.MaxPool2d(2), (2, 2, 2), 2),
    "AvgPool2d": lambda: shaped(nn.AvgPool2d(2), (2, 2, 2), 2),
    "AdaptiveAvgPool1d": lambda: shaped(nn.AdaptiveAvgPool1d(2), (1, 5), 2),
    "AdaptiveMaxPool1d": lambda: shaped(nn.AdaptiveMaxPool1d(2), (1, 5), 2),
    "LPPool1d": lambda: shaped(nn.LPPool1d(3, 2), (1, 6), 3),
    "Upsample": lambda: shaped(nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 2), 16),
    "Upsample, bicubic": lambda: shaped(nn.Upsample(scale_factor=2, mode="bicubic"), (1, 2, 2), 16),
    "PixelShuffle": lambda: shaped(nn.PixelShuffle(2), (4, 1, 1), 4),
    "ReflectionPad1d": lambda: shaped(nn.ReflectionPad1d(1), (1, 4), 6),
    "Unfold": lambda: shaped(nn.Unfold(2), (1, 2, 3), 8),
    "Fold": lambda: shaped(nn.Fold((2, 3), 2), (4, 2), 6),
    # recurrent, attention, embeddings
    "RNN": lambda: recurrent(nn.RNN(2, 2, batch_first=True)),
    "LSTM": lambda: recurrent(nn.LSTM(2, 2, batch_first=True)),
    "GRU": lambda: recurrent(nn.GRU(2, 2, batch_first=True, bidirectional=False)),
    "LSTMCell": lambda: between(Applied(lambda m, x: m.layer(x)[0], layer=nn.LSTMCell(4, 2)), 4, 2),
    "MultiheadAttention": lambda: attention(layer=nn.MultiheadAttention(2, 1, batch_first=True)),
    "TransformerEncoderLayer": lambda: attention(layer=nn.TransformerEncoderLayer(2, 1, 2, batch_first=True)),
    "scaled_dot_product_attention": function(
        lambda x: functional.scaled_dot_product_attention(*[x.unflatten(1, (2, 2))] * 3, is_causal=True).flatten(1)
    ),
    "Embedding": lambda: bags(nn.Embedding(4, 3)),
    "Embedding, sparse": lambda: bags(nn.Embedding(4, 3, sparse=True)),
    "Bilinear": lambda: between(Applied(lambda m, x: m.layer(x[:, :2], x[:, 2:]), layer=nn.Bilinear(2, 2, 3)), 4, 3),
    "CosineSimilarity": function(lambda x: functional.cosine_similarity(x[:, :2], x[:, 2:])[:, None], after=1),
    # weights that are computed
    "weight_norm": lambda: parametrized(parametrizations.weight_norm),
    "weight_norm, the old one": lambda: parametrized(nn.utils.weight_norm),
    "weight_norm of columns": lambda: parametrized(lambda layer: parametrizations.weight_norm(layer, dim=1)),
    "weight_norm of all": lambda: parametrized(lambda layer: parametrizations.weight_norm(layer, dim=None)),
    "spectral_norm": lambda: parametrized(parametrizations.spectral_norm),
    "spectral_norm, the old one": lambda: parametrized(nn.utils.spectral_norm),
    "orthogonal": lambda: parametrized(lambda layer: parametrizations.orthogonal(layer, "weight", "matrix_exp")),
    "orthogonal, cayley": lambda: parametrized(
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"), 6
    ),
    "positive weights": lambda: parametrized(lambda layer: _registered(layer, Positive())),
    # functions
    "fft": function(lambda x: torch.view_as_real(torch.fft.fft(x)).flatten(1), after=8),
    "einsum": function(lambda x: torch.einsum("bi,bj->bij", x, x).flatten(1), after=16),
    "logsumexp": function(lambda x: torch.logsumexp(x.unflatten(1, (2, 2)), 1), after=2),
    "cumsum": function(lambda x: torch.cumsum(x**2, 1)),
    "cumprod": function(lambda x: torch.cumprod(x, 1)),
    "logcumsumexp": function(lambda x: torch.logcumsumexp(x, 1)),
    "prod": function(lambda x: x.prod(1, keepdim=True), after=1),
    "sort": function(lambda x: torch.sort(x, 1).values.sin()),
    "topk": function(lambda x: torch.topk(x, 2, 1).values ** 2, after=2),
    "scatter_add": function(scattered, after=3),
    "index_select": function(lambda x: torch.index_select(x, 1, torch.tensor([3, 0, 0])).exp(), after=3),
    "where and clamp": function(lambda x: torch.where(x > 0, x**2, x.clamp(-0.2, 0.2))),
    "std": function(lambda x: x.std(1, keepdim=True), after=1),
    "norm": function(lambda x: torch.linalg.norm(x, dim=1, keepdim=True), after=1),
    "erf": function(torch.erf),
    "lgamma": function(lambda x: torch.lgamma(x + 4)),
    "atan2": function(lambda x: torch.atan2(x[:, :2], 2 + x[:, 2:]), after=2),
    "xlogy": function(lambda x: torch.xlogy(x, 3 + x)),
    "inverse": matrices(torch.linalg.inv, 9),
    "solve": matrices(lambda a: torch.linalg.solve(a, torch.eye(3, dtype=a.dtype)[:, :2]), 6),
    "cholesky": matrices(torch.linalg.cholesky, 9),
    "slogdet": matrices(lambda a: torch.linalg.slogdet(a).logabsdet, 1),
    "eigh": matrices(lambda a: torch.linalg.eigh(a).eigenvalues, 3),
    "svd": matrices(lambda a: torch.linalg.svd(a).S, 3),
    "qr": matrices(lambda a: torch.linalg.qr(a).R, 9),
    "matrix_exp": matrices(lambda a: torch.linalg.matrix_exp(a / 10), 9),
    "pinv": matrices(torch.linalg.pinv, 9),
    "grid_sample": lambda: between(Applied(sampled_grid), 4, 2),
    # what runs in the backward pass
    "checkpoint": function(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)),
    "custom function": function(Smooth.apply),
    "max, detached, taken off": function(stabilized),
}

# what autograd gets wrong without an error, and what torch 2.13 has no second derivative of
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "differentiable once": function(Once.apply),
    "linear and differentiable once": function(Doubled.apply),
    "kept on ctx": function(Kept.apply),
    "kept on ctx, symmetric": lambda: Applied(lambda m, x: Symmetric.apply(m.layer(x)), layer=nn.Linear(6, CLASSES)),
    "rounded": function(Rounded.apply),
    "detached": function(lambda x: x * torch.sigmoid(x).detach()),
    "numbers taken out": function(lambda x: x * torch.tensor(x.tolist(), dtype=x.dtype)),
    "Hardsigmoid": lambda: between(nn.Hardsigmoid()),
    "EmbeddingBag": lambda: bags(nn.EmbeddingBag(4, 3, mode="sum"), offsets=True),
    "cdist": function(lambda x: torch.cdist(x.unflatten(1, (2, 2)), torch.eye(2, dtype=x.dtype)).flatten(1)),
}


def _registered(layer: nn.Linear, change: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", change)
    return layer
