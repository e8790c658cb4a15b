"""The loss as a function of one flat parameter vector over fixed data.

Behind a few methods this hides flattening, chunking, weighting, the modes of layers and the random numbers of dropout.

The decision a reader would question: theta belongs to the caller, and the module's parameters are made views of
whichever theta was asked for last. Nothing is copied, an optimizer may update its theta in place, and a probe or SAM
may ask about another point in between, without either seeing the other. Asking about the same theta again costs
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward

from lossgeo.errors import UsageError
from lossgeo.landscapes.backprop import Chain
from lossgeo.landscapes.critical_point import CriticalPoint, Theory
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.surface_module import SurfaceModule
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.task import Examples, Task
from lossgeo.landscapes.vectorized import Vectorized

BatchNormMode = Literal["eval", "batch"]
Buffers = dict[str, torch.Tensor]
Memory = dict[str, torch.Tensor]

SAME = 1e-6  # distance of two points up to which they are one
CHUNK = 2048  # examples evaluated at once; products with the Hessian of small MLPs take 10% less time than at 1024
CHUNK_CONVOLUTION = 256  # a prototype on two cores: 79 ms a gradient in chunks of 256, 115 ms in one piece


class Evaluation(NamedTuple):
    """Loss and accuracy on a whole set; accuracy is None where targets are values."""

    loss: float
    accuracy: float | None


class SideEffects(NamedTuple):
    """What a model does in training beside giving outputs."""

    draws: bool  # random numbers
    moves: tuple[str, ...]  # the buffers that it changes


class Landscape:
    """L(theta) = mean over examples of loss(module(inputs; theta), targets).

    `train` and `test` hold the data on the device in the form that the loss takes. `size` is P.

    Raises:
        UsageError: the model's output does not fit the task, or there is nothing to train.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        task: Task,
        train: Examples,
        test: Examples,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
    ) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.task = task
        self.dtype = dtype
        self.device = torch.device(device)
        self.train = self._prepared(loss, train)
        self.test = self._prepared(loss, test)
        self.loss = loss
        self._parameters = list(module.parameters())
        self._learning = tuple(p for p in self._parameters if p.requires_grad)
        if not self._learning:
            raise UsageError("the model has no parameters to train")
        self.sizes = [p.numel() for p in self._parameters]
        self.size = sum(self.sizes)
        self._norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())
        self.chunk = chunk or (CHUNK_CONVOLUTION if convolves else CHUNK)
        self._start = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        self._theta = torch.empty(0)
        self._gradient = torch.zeros_like(self._start)
        self._chain = Chain.of(module, loss, self._gradient)
        self._one = (torch.ones((), dtype=dtype, device=device),)
        self._check()
        self._side_effects = self.rehearse(2)
        self.planted: Sequence[CriticalPoint] = ()  # those of a network that are known, float64
        # seconds of a gradient over so many examples in such a mode and precision, by such parameters; filled by those
        # who measure it, once it was seen to be repeatable
        self.gradient_seconds: dict[tuple[int, BatchNormMode, torch.dtype, tuple[str, ...]], float] = {}

    @property
    def surface(self) -> Surface | None:
        """The analytic surface that this is, if it is none of a network."""
        return self.module.surface if isinstance(self.module, SurfaceModule) else None

    def theory(self, theta: torch.Tensor, loss: float, index: float) -> Theory | None:
        """What is known of critical points like one at theta (P,), of this loss and index."""
        if self.surface is not None:
            return self.surface.theory(loss, index)
        for point in self.planted:
            if float(torch.linalg.vector_norm(theta.double() - point.theta.to(theta.device))) <= SAME:
                return Theory(point.loss, point.index)
        return None

    @cached_property
    def vectorized(self) -> Vectorized:
        """It as seen from many points at once.

        Raises:
            UsageError: a layer draws random numbers or keeps statistics while it trains, so that trials would mix.
        """
        instead = "sweep over `seed` in place of `replicas`"
        if self._side_effects.draws:
            raise UsageError(f"a layer draws random numbers while it trains, as dropout does; {instead}")
        if self._side_effects.moves:
            buffer = self._side_effects.moves[0]
            raise UsageError(f"the model changes buffer {buffer!r} while it trains, as a batch norm does; {instead}")
        return Vectorized.of(self.module, self.loss, self.train.size)

    # --- points ------------------------------------------------------------------------------------------------------

    def start(self) -> torch.Tensor:
        """The initial theta (P,); a fresh copy at every call."""
        return self._start.clone()

    def buffers(self) -> Buffers:
        """The module's buffers as they are now, copied."""
        return {name: b.clone() for name, b in self.module.named_buffers()}

    def restore(self, buffers: Buffers) -> None:
        """Set the module's buffers."""
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])

    def go_to(self, theta: torch.Tensor) -> None:
        """Make the parameters views of theta."""
        if theta is self._theta:
            return
        for parameter, piece in zip(self._parameters, torch.split(theta, self.sizes), strict=True):
            parameter.data = piece.view(parameter.shape)
        self._theta = theta

    # --- training ----------------------------------------------------------------------------------------------------

    def gradient(
        self, theta: torch.Tensor, batch: Examples, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and gradient (P,) on a batch, in training mode: BatchNorm moves its statistics, dropout draws.

        The gradient is a buffer that the next call overwrites. `generator` feeds dropout; without dropout it stays as
        it is. For theta (R, P) and a batch (R, B, ...), losses (R,) and gradients (R, P) of R independent trials.
        """
        if theta.ndim == 2:
            return self.vectorized.gradient(theta, batch)
        self.go_to(theta)
        if self._chain is not None:
            return self._chain.differentiate(*batch), self._gradient
        with self._lent(generator):
            loss = self.loss.mean(self.module(batch.inputs), batch.targets)
        # torch.autograd.grad without the checks of its arguments: 10 of a small network's 130 microseconds a step
        pieces = _engine_run_backward((loss,), self._one, False, False, self._learning, True, accumulate_grad=False)
        flattened(pieces, self._parameters, out=self._gradient)
        return loss.detach(), self._gradient

    def _lent(self, generator: torch.Generator) -> AbstractContextManager[None]:
        """Where layers draw at random: torch's own generator, seeded from ours and put back afterwards."""
        return self._seeded(generator) if self._side_effects.draws else nullcontext()

    @contextmanager
    def _seeded(self, generator: torch.Generator) -> Iterator[None]:
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield

    # --- measuring ---------------------------------------------------------------------------------------------------

    @contextmanager
    def measuring(self, theta: torch.Tensor, batch_norm: BatchNormMode = "eval") -> Iterator[None]:
        """The module at theta with dropout off; everything but the last theta asked for is as it was afterwards.

        `batch_norm`: "eval" normalizes with the running statistics, "batch" with those of the examples at hand, which
        does not move the running ones. A theta of another precision takes the buffers with it.
        """
        # other tensors in their places: a graph built now goes on referring to these
        others = [
            (m._buffers, name, b)
            for m in self.module.modules()
            for name, b in m._buffers.items()
            if b is not None and b.is_floating_point() and b.dtype != theta.dtype
        ]
        for place, name, buffer in others:
            place[name] = buffer.to(theta.dtype)
        flags = [(m, m.training) for m in self.module.modules()]
        tracking = [(norm, norm.track_running_stats) for norm in self._norms]
        state = torch.default_generator.get_state()
        self.module.eval()
        if batch_norm == "batch":
            for norm in self._norms:
                norm.training = True
                norm.track_running_stats = False  # torch then uses the batch's statistics and leaves the buffers alone
        self.go_to(theta)
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training
            if batch_norm == "batch":
                for norm, tracks in tracking:
                    norm.track_running_stats = tracks
            for place, name, buffer in others:
                place[name] = buffer
            torch.default_generator.set_state(state)

    def chunks(self, examples: Examples, batch_norm: BatchNormMode = "eval") -> Iterator[tuple[Examples, float]]:
        """The examples in pieces, each with its share of the mean; the shares add up to 1.

        With batch statistics every output depends on every example, so there is one piece.
        """
        step = examples.size if self._mixes(batch_norm) else self.chunk
        total = self.loss.weight(examples.targets)
        for begin in range(0, examples.size, step):
            piece = examples.rows(slice(begin, begin + step))
            yield piece, self.loss.weight(piece.targets) / total

    def _mixes(self, batch_norm: BatchNormMode) -> bool:
        """Whether an output depends on the other examples: some batch norms keep no running statistics."""
        return any(batch_norm == "batch" or norm.running_mean is None for norm in self._norms)

    def outputs(self, theta: torch.Tensor, inputs: torch.Tensor, batch_norm: BatchNormMode = "eval") -> torch.Tensor:
        """Outputs (N, C) for inputs (N, ...), without a graph."""
        step = inputs.shape[0] if self._mixes(batch_norm) else self.chunk
        with self.measuring(theta, batch_norm), torch.no_grad():
            return torch.cat([self.module(piece) for piece in torch.split(inputs, step)])

    def evaluate(self, theta: torch.Tensor, examples: Examples, batch_norm: BatchNormMode = "eval") -> Evaluation:
        """Loss and accuracy on all examples; costs one forward pass over them."""
        loss, correct, counted = 0.0, 0, 0
        with self.measuring(theta, batch_norm), torch.no_grad():
            for piece, share in self.chunks(examples, batch_norm):
                outputs = self.module(piece.inputs)
                loss += share * float(self.loss.mean(outputs, piece.targets))
                if self.task.targets == "classes":
                    labels = piece.targets if piece.targets.ndim < outputs.ndim else piece.targets.argmax(-1)
                    correct += int((outputs.argmax(-1) == labels).sum())
                    counted += int((labels >= 0).sum())  # a class below 0 does not count
        return Evaluation(loss, correct / counted if self.task.targets == "classes" else None)

    def evaluations(self, theta: torch.Tensor, examples: Examples) -> list[Evaluation]:
        """Of R trials, theta (R, P); costs R forward passes over the examples, on a surface one for all."""
        if self.surface is not None:
            return [Evaluation(value, None) for value in self.surface.value(theta).tolist()]
        return [self.evaluate(row, examples) for row in theta]

    def mean_gradient(
        self, theta: torch.Tensor, examples: Examples, batch_norm: BatchNormMode = "eval"
    ) -> torch.Tensor:
        """The gradient (P,) of the loss on all examples, in measuring mode; costs one gradient over them."""
        total = torch.zeros_like(theta)
        with self.measuring(theta, batch_norm), torch.enable_grad():
            for piece, share in self.chunks(examples, batch_norm):
                loss = share * self.loss.mean(self.module(piece.inputs), piece.targets)
                total += flattened(torch.autograd.grad(loss, self._learning, allow_unused=True), self._parameters)
        return total

    # --- checks at construction --------------------------------------------------------------------------------------

    def _prepared(self, loss: Loss, examples: Examples) -> Examples:
        inputs = examples.inputs.to(self.device, self.dtype if self.task.vocabulary is None else torch.int64)
        return Examples(inputs, loss.prepare(examples.targets, self.task, self.dtype).to(self.device))

    def _check(self) -> None:
        """Refuse early: a model that does not fit its task."""
        outputs = self.outputs(self._start, self.train.inputs[:2])
        wanted = (min(2, self.train.size), *self.task.output_shape)
        if tuple(outputs.shape) != wanted:
            raise UsageError(f"the model returns {tuple(outputs.shape)} for two examples where the task wants {wanted}")

    def rehearse(self, batch_size: int) -> SideEffects:
        """A forward pass in training mode on that many examples, undone; what it did beside its outputs.

        Found by trying, so any layer counts. A batch norm cannot take a last batch of one example, for instance.

        Raises:
            UsageError: the model cannot train on a batch of that size.
        """
        generator = torch.default_generator
        before, buffers = generator.get_state(), self.buffers()
        try:
            with torch.no_grad():
                self.module.train()
                self.module(self.train.inputs[:batch_size])
        except ValueError as error:
            raise UsageError(
                f"the model cannot train on a batch of {batch_size}: {error}; change batch_size or dataset.train"
            ) from error
        finally:
            draws = not torch.equal(before, generator.get_state())
            moves = tuple(n for n, b in self.module.named_buffers() if not torch.equal(b, buffers[n]))
            self.restore(buffers)
            generator.set_state(before)
        return SideEffects(draws, moves)


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
