"""A module as a function of one flat vector, lent to those who train and those who measure, and given back as it was.

Theta belongs to the caller; the parameters are made views of whichever theta was asked for last. Nothing is copied, an
optimizer may update its theta in place, and a probe may ask about another point in between, without either seeing the
other. Asking about the same theta again costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import nn

from lossgeo.errors import UsageError
from lossgeo.landscapes.parameters import cast, floating_buffers

CLOSE = 0.01  # how far `near` goes, relative to the size of each parameter

BatchNormMode = Literal["eval", "batch"]
Buffers = dict[str, torch.Tensor]


class SideEffects(NamedTuple):
    """What a model does in training beside giving outputs."""

    rng: bool  # it draws random numbers
    buffers: tuple[str, ...]  # those that it changes


class FlatModule:
    """A module with its parameters in one vector (P,), in the order of `named_parameters`.

    Raises:
        UsageError: there is nothing to train.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.parameters = list(module.parameters())
        self.learning = tuple(p for p in self.parameters if p.requires_grad)
        if not any(p.numel() for p in self.learning):
            raise UsageError("the model has no parameters to train")
        self.shapes = [p.shape for p in self.parameters]
        self.sizes = [p.numel() for p in self.parameters]
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())
        self._theta = torch.empty(0)

    def go_to(self, theta: torch.Tensor) -> None:
        """Make the parameters views of theta."""
        if theta is self._theta:
            return
        for parameter, piece in zip(self.parameters, torch.split(theta, self.sizes), strict=True):
            parameter.data = piece.view(parameter.shape)
        self._theta = theta

    def theta(self) -> torch.Tensor:
        """The parameters as they are now, as a new vector (P,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def buffers(self) -> Buffers:
        """The buffers as they are now, copied."""
        return {name: b.clone() for name, b in self.module.named_buffers()}

    def restore(self, buffers: Buffers) -> None:
        """Set the buffers."""
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """The buffers are afterwards what they were before."""
        before = self.buffers()
        try:
            yield
        finally:
            self.restore(before)

    # --- lending -----------------------------------------------------------------------------------------------------

    @contextmanager
    def measuring(
        self, theta: torch.Tensor, batch_norm: BatchNormMode = "eval", masks: int | None = None, seeding: bool = True
    ) -> Iterator[None]:
        """The module at theta with dropout off; everything but the last theta asked for is as it was afterwards.

        `batch_norm`: "eval" normalizes with the running statistics, "batch" with those of the examples at hand, which
        does not move the running ones. With `masks`, a seed, the module is in the mode in which it trains: layers draw
        from that seed, and batch norms that train use the batch's statistics; without `seeding` whoever draws sets the
        generator, as a recomputed forward pass does. A theta of another precision takes the buffers with it.
        """
        # other tensors in their places: a graph built now goes on referring to these
        others = [
            (place, name, b, other)
            for place, name, b in floating_buffers(self.module)
            if (other := cast(b, theta.dtype)) is not b
        ]
        for place, name, _, other in others:
            place[name] = other
        flags = [(m, m.training) for m in self.module.modules()]
        tracking = [(norm, norm.track_running_stats) for norm in self.norms]
        state = torch.default_generator.get_state()
        if masks is None:
            self.module.eval()
        by_batch = [norm for norm in self.norms if batch_norm == "batch" or (masks is not None and norm.training)]
        for norm in by_batch:
            norm.training = True
            norm.track_running_stats = False  # torch then uses the batch's statistics and leaves the buffers alone
        self.go_to(theta)
        try:
            with nullcontext() if masks is None or not seeding else self.seeded(masks):
                yield
        finally:
            for module, training in flags:
                module.training = training
            if by_batch:
                for norm, tracks in tracking:
                    norm.track_running_stats = tracks
            for place, name, buffer, _ in others:
                place[name] = buffer
            torch.default_generator.set_state(state)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """torch's own generators, from which layers draw, seeded and put back afterwards."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield

    def drawing(self, masks: int, rng: bool) -> AbstractContextManager[None]:
        """`seeded` where layers draw at random; a small network feels what it costs where none does."""
        return self.seeded(masks) if rng else nullcontext()

    def rehearse(self, inputs: torch.Tensor) -> SideEffects:
        """A forward pass in training mode, undone; what it did beside its outputs.

        Found by trying, so any layer counts. A batch norm cannot take a last batch of one example, for instance.

        Raises:
            UsageError: the model cannot train on a batch of that size.
        """
        generator = torch.default_generator
        before, buffers = generator.get_state(), self.buffers()
        try:
            with torch.no_grad():
                self.module.train()
                self.module(inputs)
        except ValueError as error:
            raise UsageError(
                f"the model cannot train on a batch of {len(inputs)}: {error}; change batch_size or dataset.train"
            ) from error
        finally:
            draws = not torch.equal(before, generator.get_state())
            moves = tuple(n for n, b in self.module.named_buffers() if not torch.equal(b, buffers[n]))
            self.restore(buffers)
            generator.set_state(before)
        return SideEffects(draws, moves)


def near(theta: torch.Tensor, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A point close to theta (P,), the same at every call, where nothing is exactly zero or at a kink by construction.

    Every parameter is moved by a hundredth of its own size, and by 0.01 where it is zero.
    """
    stream = torch.Generator().manual_seed(0)
    pieces = torch.split(theta.detach().to(dtype), list(sizes))
    return torch.cat([piece + CLOSE * relative(piece, stream) for piece in pieces])


def moderate(theta: torch.Tensor, shapes: Sequence[torch.Size]) -> torch.Tensor:
    """Theta (P,) with large parameters made smaller, to 1 / sqrt(what a unit adds up): there no layer is saturated."""
    pieces = torch.split(theta.detach(), [shape.numel() for shape in shapes])
    limits = [math.sqrt(shape[0] / max(shape.numel(), 1)) if len(shape) > 1 else 1.0 for shape in shapes]
    return torch.cat([shrunk(piece, most) for piece, most in zip(pieces, limits, strict=True)])


def shrunk(tensor: torch.Tensor, most: float) -> torch.Tensor:
    """A tensor at the size (root mean square) `most` where it is larger; as it is where its size is not finite."""
    size = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
    return tensor * (most / size) if most < size < math.inf else tensor


def relative(tensor: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """A random displacement of the size of a tensor, and of size 1 where that is zero."""
    drawn = torch.randn(tensor.shape, generator=stream, dtype=torch.float64).to(tensor)
    size = tensor.detach().square().mean().sqrt() if tensor.numel() else tensor.new_zeros(())
    return drawn * torch.where(size > 0, size, torch.ones_like(size))


def flattened(
    pieces: Sequence[torch.Tensor | None], parameters: Sequence[nn.Parameter], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Derivatives by the learning ones of some parameters as one vector (P,) over all of these.

    Zero where there is no dependence.
    """
    known = [piece.reshape(-1) for piece in pieces if piece is not None]
    if len(known) == len(parameters):
        return torch.cat(known, out=out)
    learned = iter(pieces)
    flat = []
    for parameter in parameters:
        piece = next(learned) if parameter.requires_grad else None
        flat.append((torch.zeros_like(parameter) if piece is None else piece).reshape(-1))
    return torch.cat(flat, out=out)
