"""The loss as a function of one flat parameter vector over fixed data: its values and its gradients.

Behind a few methods this hides flattening, chunking, weighting, the modes of layers and the random numbers of dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward

from lossgeo.errors import UsageError
from lossgeo.landscapes.backprop import Chain
from lossgeo.landscapes.critical_point import Knowledge
from lossgeo.landscapes.flat_module import BatchNormMode, FlatModule, flattened, near
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.parameters import converted
from lossgeo.landscapes.rehearsal import Together, handful, rehearsed, together
from lossgeo.landscapes.task import Examples, Task
from lossgeo.landscapes.vectorized import Formula, Vectorized

Memory = dict[str, torch.Tensor]

CHUNK = 2048  # examples evaluated at once; products with the Hessian of small MLPs take 10% less time than at 1024
CHUNK_CONVOLUTION = 256  # a prototype on two cores: 79 ms a gradient in chunks of 256, 115 ms in one piece


class Evaluation(NamedTuple):
    """Loss and accuracy on a whole set; accuracy is None where targets are values."""

    loss: float
    accuracy: float | None


T = TypeVar("T", torch.Tensor, float)


def total(parts: Iterable[T]) -> T:
    """The sum over chunks; the first part is written into."""
    chunks = iter(parts)
    whole = next(chunks)
    for part in chunks:
        whole += part
    return whole


class Landscape:
    """L(theta) = mean over examples of loss(module(inputs; theta), targets).

    `train` and `test` hold the data on the device in the form that the loss takes. `size` is P. `formula` is the loss
    where it is one of theta alone, as of a surface: there are then no outputs, many points are evaluated at once, and
    the bits of a point do not depend on those beside it. `known` is what theory knows in advance.

    With `decay` gamma it is L(theta) + gamma / 2 |theta|^2 wherever it is measured, over all parameters that learn.
    What training steps by, `gradient` and `value` of a batch, is without: an optimizer adds its weight decay itself.

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
        formula: Formula | None = None,
        known: Knowledge | None = None,
        decay: float = 0.0,
    ) -> None:
        self.module = converted(module, dtype, device)
        self.task = task
        self.dtype = dtype
        self.device = torch.device(device)
        self.train = self._prepared(loss, train)
        self.test = self._prepared(loss, test)
        self.loss = loss
        self.formula = formula
        self.known = known or Knowledge()
        self.flat = FlatModule(self.module, self.device)
        self.size = sum(self.flat.sizes)
        learns = [torch.full((p.numel(),), p.requires_grad) for p in self.flat.parameters]
        frozen = (~torch.cat(learns)).nonzero()[:, 0].to(device)
        self.frozen = frozen if len(frozen) else None  # (F,) coordinates of theta that no step may move
        # (P,): gamma, 0 where a parameter is frozen; None: there is no decay
        self.decay = None
        if decay:
            self.decay = decay * torch.cat(learns).to(device, torch.float64)
        self.chunk = chunk or (CHUNK_CONVOLUTION if self.flat.convolves else CHUNK)
        self._start = self.flat.theta()
        self._gradient = torch.zeros_like(self._start)
        self._chain = Chain.of(module, loss, self._gradient)
        self._one = (torch.ones((), dtype=dtype, device=device),)
        self._check()
        self.side_effects = self.flat.rehearse(self.train.inputs[:2].clone())
        self.flat.go_to(self.start())
        self.backward = rehearsed(self.flat, loss, handful(self.train))
        self.together = Together(False, False) if formula else together(self.flat, loss, handful(self.train), dtype)
        self._answers: dict[tuple[object, ...], float | ValueError] = {}

    @cached_property
    def vectorized(self) -> Vectorized:
        """The gradient at many points at once.

        Raises:
            UsageError: a layer draws random numbers or keeps statistics while it trains, so that trials would mix; or
                the gradient of many trials at once is not that of each.
        """
        instead = "sweep over `seed` in place of `replicas`"
        if self.side_effects.rng:
            raise UsageError(f"a layer draws random numbers while it trains, as dropout does; {instead}")
        if self.side_effects.buffers:
            buffer = self.side_effects.buffers[0]
            raise UsageError(f"the model changes buffer {buffer!r} while it trains, as a batch norm does; {instead}")
        made = Vectorized.of(self.module, self.loss, self.formula, self.train.size, self.together.losses)
        if self.formula is None:
            self._require_vectorizes(made, instead)
        return made

    def _require_vectorizes(self, made: Vectorized, instead: str) -> None:
        # close to the start, which may be critical, so that rounding is all there is of its gradient
        batch, theta = handful(self.train), near(self._start, self.flat.sizes, self.dtype)
        try:
            _, found = made.gradient(theta.expand(2, -1), Examples(*(t.expand(2, *t.shape) for t in batch)))
        except RuntimeError as error:
            reason = str(error).strip().partition(". ")[0].partition("\n")[0]
            raise UsageError(f"the model's gradient cannot be vectorized over trials ({reason}); {instead}") from error
        wanted = self.gradient(theta, batch)[1]
        apart = float(torch.linalg.vector_norm(found[1] - wanted))
        if apart > torch.finfo(self.dtype).eps ** 0.5 * float(torch.linalg.vector_norm(wanted)):
            raise UsageError(f"vectorized over trials the model has another gradient than by itself; {instead}")

    @property
    def has_outputs(self) -> bool:
        """Whether the loss is one of a model's outputs, and not a formula of theta."""
        return self.formula is None

    def start(self) -> torch.Tensor:
        """The initial theta (P,); a fresh copy at every call."""
        return self._start.clone()

    # --- training ----------------------------------------------------------------------------------------------------

    def gradient(self, theta: torch.Tensor, batch: Examples, masks: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and gradient (P,) on a batch, in training mode: BatchNorm moves its statistics, dropout draws.

        The gradient is a buffer that the next call overwrites. `masks` seeds what layers draw. For theta (R, P) and a
        batch (R, B, ...), losses (R,) and gradients (R, P) of R independent trials.
        """
        if theta.ndim == 2:
            return self.vectorized.gradient(theta, batch)
        self.flat.go_to(theta)
        if self._chain is not None:
            return self._chain.differentiate(*batch), self._gradient
        with self.flat.drawing(masks, self.side_effects.rng):
            loss = self.loss.mean(self.module(batch.inputs), batch.targets)
        # torch.autograd.grad without the checks of its arguments: 10 of a small network's 130 microseconds a step
        pieces = _engine_run_backward((loss,), self._one, False, False, self.flat.learning, True, accumulate_grad=False)
        flattened(pieces, self.flat.parameters, out=self._gradient)
        return loss.detach(), self._gradient

    @torch.no_grad()
    def value(self, theta: torch.Tensor, batch: Examples, masks: int = 0) -> torch.Tensor:
        """The loss (scalar) on a batch, in training mode, without its gradient; of trials (R,)."""
        if theta.ndim == 2:
            return self.vectorized.gradient(theta, batch)[0]
        self.flat.go_to(theta)
        with self.flat.drawing(masks, self.side_effects.rng):
            return self.loss.mean(self.module(batch.inputs), batch.targets)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def penalty(self, theta: torch.Tensor) -> torch.Tensor:
        """gamma / 2 |theta|^2 at theta (..., P), float64 (...), where there is decay."""
        assert self.decay is not None
        return 0.5 * (theta.double().square() @ self.decay)

    def chunks(
        self, examples: Examples, batch_norm: BatchNormMode = "eval", whole: bool = False
    ) -> Iterator[tuple[Examples, float]]:
        """The examples in pieces, each with its share of the mean; the shares add up to 1.

        Where an output or the loss of an example depends on the others there is one piece; with `whole` too.
        """
        if whole:
            yield examples, 1.0  # also of a batch in which no target counts, whose weight is 0
            return
        step = examples.size if self.mixes(batch_norm) else self.chunk
        weight = self.loss.weight(examples.targets)
        for begin in range(0, examples.size, step):
            piece = examples.rows(slice(begin, begin + step))
            yield piece, self.loss.weight(piece.targets) / weight

    def outputs(self, theta: torch.Tensor, inputs: torch.Tensor, batch_norm: BatchNormMode = "eval") -> torch.Tensor:
        """Outputs (N, C) for inputs (N, ...), without a graph."""
        step = inputs.shape[0] if self.mixes(batch_norm) else self.chunk
        with self.flat.measuring(theta, batch_norm), torch.no_grad():
            return torch.cat([self.module(piece) for piece in torch.split(inputs, step)])

    def evaluate(self, theta: torch.Tensor, examples: Examples, batch_norm: BatchNormMode = "eval") -> Evaluation:
        """Loss and accuracy on all examples; costs one forward pass over them."""
        loss, correct, counted = 0.0 if self.decay is None else float(self.penalty(theta)), 0, 0
        with self.flat.measuring(theta, batch_norm), torch.no_grad():
            for piece, share in self.chunks(examples, batch_norm):
                outputs = self.module(piece.inputs)
                loss += share * float(self.loss.mean(outputs, piece.targets))
                if self.task.targets == "classes":
                    labels = piece.targets if piece.targets.ndim < outputs.ndim else piece.targets.argmax(-1)
                    correct += int((outputs.argmax(-1) == labels).sum())
                    counted += int((labels >= 0).sum())  # a class below 0 does not count
        return Evaluation(loss, correct / counted if self.task.targets == "classes" else None)

    def evaluations(self, theta: torch.Tensor, examples: Examples) -> list[Evaluation]:
        """Of R trials, theta (R, P); costs R forward passes over the examples, of a formula one for all."""
        if self.formula is not None:
            values = self.formula(theta) if self.decay is None else self.formula(theta) + self.penalty(theta)
            return [Evaluation(value, None) for value in values.tolist()]
        return [self.evaluate(row, examples) for row in theta]

    def mean_gradient(
        self, theta: torch.Tensor, examples: Examples, batch_norm: BatchNormMode = "eval"
    ) -> torch.Tensor:
        """The gradient (P,) of the loss on all examples, in measuring mode; costs one gradient over them."""

        def part(piece: Examples, share: float) -> torch.Tensor:
            loss = share * self.loss.mean(self.module(piece.inputs), piece.targets)
            pieces = torch.autograd.grad(loss, self.flat.learning, allow_unused=True)
            return flattened(pieces, self.flat.parameters)

        with self.flat.measuring(theta, batch_norm), torch.enable_grad():
            gradient = total(part(*chunk) for chunk in self.chunks(examples, batch_norm))
        return gradient if self.decay is None else gradient + self.decay.to(gradient) * theta

    def once(self, question: tuple[object, ...], ask: Callable[[], float]) -> float:
        """The answer to a question about the model that does not depend on the point: asked once, a refusal too.

        NaN is no answer, and the next one asks again.

        Raises:
            ValueError: what `ask` raised, the first time.
        """
        if question not in self._answers:
            try:
                self._answers[question] = ask()
            except ValueError as refusal:
                self._answers[question] = refusal
        answer = self._answers[question]
        if isinstance(answer, ValueError):
            raise ValueError(str(answer))
        if math.isnan(answer):
            del self._answers[question]
        return answer

    def mixes(self, batch_norm: BatchNormMode = "eval") -> bool:
        """Whether the loss is no mean over examples that are evaluated each by itself."""
        return any(self.together) or (batch_norm == "batch" and bool(self.flat.norms))

    # --- checks at construction --------------------------------------------------------------------------------------

    def _prepared(self, loss: Loss, examples: Examples) -> Examples:
        inputs = examples.inputs.to(self.device, self.dtype if self.task.vocabulary is None else torch.int64)
        return Examples(inputs, loss.prepare(examples.targets, self.task, self.dtype).to(self.device))

    def _check(self) -> None:
        """Refuse early: a model that does not fit its task."""
        with self.flat.measuring(self._start.clone()), torch.no_grad():
            outputs = self.module(self.train.inputs[:2].clone())
        wanted = (min(2, self.train.size), *self.task.output_shape)
        if tuple(outputs.shape) != wanted:
            raise UsageError(f"the model returns {tuple(outputs.shape)} for two examples where the task wants {wanted}")
