"""A landscape around a point: losses and outputs over fixed examples, and their derivatives by some of the parameters.

This is what operators are made of. It settles once, for all of them, which parameters and examples count, in which
precision, and that the model gives the same answer twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy

import torch

from lossgeo.curvature.kernels import differentiable_kernels
from lossgeo.curvature.memory import memory_budget
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator
from lossgeo.landscapes.flat_module import BatchNormMode, flattened
from lossgeo.landscapes.landscape import Landscape, total
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.repeatability import require_repeatable
from lossgeo.landscapes.task import Examples

Pieces = tuple[torch.Tensor | None, ...]  # one for each learning parameter of the block; None: no dependence


class LocalLoss:
    """L around theta, over N examples, as a function of a block of the parameters.

    `size` is the number of parameters P in the block, frozen ones included: these have zero derivatives. `names` are
    the block's parameters (default: all), vectors (P,) follow their order; `learning` are those not frozen. `dtype` is
    at least float32, since second derivatives in bfloat16 have no correct digit; theta in bfloat16 is exact in it.
    `memory` is what graphs and vectors may take, in bytes (default: half of what is free).

    With `masks`, a seed, it is the loss as training sees it: layers draw from that seed, batch norms that train use the
    examples' own statistics, and weight decay, which an optimizer adds itself, is no part of it.

    `gradient_seconds` is the price of one gradient of the loss over the examples.

    Cost: two gradients, once for a landscape, a number of examples and a mode of batch norm.

    Where an example's loss depends on the others (`independent` is false), it is that of all the examples together, and
    of the training examples no part stands for all.

    Raises:
        ValueError: the model does not give the same loss and gradient twice, or the examples are a part of those of
            which no part stands for all.
    """

    def __init__(
        self,
        landscape: Landscape,
        point: Point,
        examples: Examples,
        batch_norm: BatchNormMode = "eval",
        names: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        memory: int | None = None,
        masks: int | None = None,
    ) -> None:
        self.landscape = landscape
        self.loss = landscape.loss
        self.point = point
        self.examples = examples
        self.batch_norm: BatchNormMode = batch_norm
        self.masks = masks
        self.dtype = dtype or torch.promote_types(landscape.dtype, torch.float32)
        self.device = landscape.device
        self.theta = point.theta.to(self.dtype)
        self.memory = memory_budget(self.device) if memory is None else memory
        self._version = point.theta._version
        self._of_block(names)
        self.total = self.loss.weight(examples.targets)
        self.independent = not any(landscape.together)
        self._require_all()
        self.gradient_seconds = self._repeatable()

    def _of_block(self, names: Sequence[str] | None) -> None:
        named = dict(self.landscape.module.named_parameters())
        self.names = tuple(named) if names is None else tuple(names)
        self._block = [named[name] for name in self.names]
        self.learning = tuple(p for p in self._block if p.requires_grad)
        self._sizes = [p.numel() for p in self._block]
        self.size = sum(self._sizes)
        ends = dict(zip(named, itertools.accumulate(p.numel() for p in named.values()), strict=True))
        self._where = [slice(ends[name] - named[name].numel(), ends[name]) for name in self.names]
        decay = self.landscape.decay if self.masks is None else None
        self._decay = None if decay is None else self.block(decay).to(self.dtype)  # (P,) of the block

    def _repeatable(self) -> float:
        """Whether the model gives the same twice is asked once; the answer is the price of a gradient."""

        def measured() -> float:
            first, _ = next(self.pieces())
            return require_repeatable(self.landscape, self.gradient, lambda: self.outputs(first.inputs))

        return self.landscape.once(("repeatable", self.examples.size, self.mode, self.dtype, self.names), measured)

    @property
    def mode(self) -> str:
        """In which mode the model is: with running statistics, with the examples' own, or as in training."""
        return self.batch_norm if self.masks is None else "training"

    def _require_all(self) -> None:
        # a batch as a step sees it is all that its loss is of
        if not self.independent and self.masks is None and self.examples.size < self.landscape.train.size:
            what = "an output of the model" if self.landscape.together.outputs else "the loss of an example"
            raise ValueError(
                f"{what} depends on the other examples, so that {self.examples.size} of {self.landscape.train.size} "
                "have another loss than all: use `samples: all`"
            )

    def require_independent(self, what: str) -> None:
        """Refuse what is made of single examples where these depend on each other.

        Raises:
            ValueError: with the way out.
        """
        if not self.independent:
            mixing = "an output of the model" if self.landscape.together.outputs else "the loss of an example"
            raise ValueError(
                f"{what} is made of single examples, and {mixing} depends on the others here: use `operator: hessian` "
                "or gauss_newton, which are of all together"
            )

    def require_current(self) -> None:
        """Go back to the point, or refuse where it has moved.

        Raises:
            ValueError: theta has changed since the loss around it was taken.
        """
        if self.point.theta._version != self._version:
            raise ValueError("theta has changed since the loss around it was taken; take it again at the new point")
        # kept graphs read the module's own parameters, and another theta may have been asked for in between
        self.landscape.flat.go_to(self.theta)

    def first(self, examples: int) -> LocalLoss:
        """The same over the first examples alone; over all where masks or batch statistics belong to all of them."""
        if examples >= self.examples.size or self.batch_norm == "batch" or self.masks is not None:
            return self
        fewer = copy(self)
        fewer.examples = self.examples.rows(slice(0, examples))
        fewer.total = self.loss.weight(fewer.examples.targets)
        return fewer

    def at_few(self, examples: Examples, theta: torch.Tensor) -> LocalLoss:
        """The same over a few other examples, all parameters, at a theta and in its precision."""
        there = self.elsewhere(theta)
        there.examples = examples
        there.total = self.loss.weight(examples.targets)
        there.dtype = theta.dtype
        there.theta = theta
        there._of_block(None)
        return there

    def elsewhere(self, theta: torch.Tensor) -> LocalLoss:
        """The same at another theta, over all parameters."""
        there = copy(self)
        there.point = Point(self.point.step, theta, {})
        there.theta = theta.to(self.dtype)
        there._version = theta._version
        return there

    # --- values with their graphs ------------------------------------------------------------------------------------

    def pieces(self, skip: int = 0) -> Iterator[tuple[Examples, float]]:
        """The examples in chunks, each with its share of the mean, without the first `skip` chunks.

        A batch as it is trained on is one chunk: its masks and its statistics belong to the whole.
        """
        chunks = self.landscape.chunks(self.examples, self.batch_norm, whole=self.masks is not None)
        for piece, share in itertools.islice(chunks, skip, None):
            inputs, targets = (t.to(self.dtype) if t.is_floating_point() else t for t in piece)
            yield Examples(inputs, targets), share

    def outputs(self, inputs: torch.Tensor, theta: torch.Tensor | None = None) -> torch.Tensor:
        """The model's outputs (B, ..., C) with their graph, in measuring mode, here or at another theta."""
        with self.measuring(self._at(theta)), torch.enable_grad():
            outputs: torch.Tensor = self.landscape.module(inputs)
        return outputs

    @contextmanager
    def measuring(self, theta: torch.Tensor, seeding: bool = True) -> Iterator[None]:
        """The model at theta in the mode of this loss, its layers in operations that have second derivatives."""
        lent = self.landscape.flat.measuring(theta, self.batch_norm, self.masks, seeding)
        with lent, differentiable_kernels(self.landscape.backward.weight_norm):
            yield

    def _backward(self, theta: torch.Tensor) -> AbstractContextManager[None]:
        """Around backward passes: what is computed anew in one has to be what it was in the forward pass."""
        return self.measuring(theta, seeding=False) if self.landscape.backward.recomputes else nullcontext()

    def _at(self, theta: torch.Tensor | None) -> torch.Tensor:
        return self.theta if theta is None else theta

    def gradient(self, theta: torch.Tensor | None = None) -> torch.Tensor:
        """The gradient (P,) of the loss on all the examples, here or at another theta; costs one gradient."""

        def part(piece: Examples, share: float) -> torch.Tensor:
            loss = share * self.loss.mean(self.outputs(piece.inputs, theta), piece.targets)
            return self.flat(self.derivatives((loss,), theta=theta))

        gradient = total(part(*chunk) for chunk in self.pieces())
        return gradient if self._decay is None else gradient + self._decay * self.block(self._at(theta))

    @torch.no_grad()
    def value(self) -> float:
        """The loss on all the examples; costs a forward pass."""
        penalty = 0.0 if self._decay is None else float(self.landscape.penalty(self.theta))
        return penalty + total(
            share * float(self.loss.mean(self.outputs(piece.inputs), piece.targets)) for piece, share in self.pieces()
        )

    def penalized(self, operator: LinearOperator) -> LinearOperator:
        """A second derivative of the loss on the examples, with that of the decay; the same map where there is none."""
        decay = self._decay
        if decay is None:
            return operator

        def contributions(vectors: torch.Tensor) -> Contributions:
            assert operator.contributions is not None
            of_examples = operator.contributions(vectors)
            forms = (decay * vectors * vectors).sum(1).double()
            return of_examples._replace(forms=of_examples.forms + forms[:, None] * of_examples.shares)

        return LinearOperator(
            operator.size,
            lambda vector: operator @ vector + decay * vector,
            operator.dtype,
            operator.device,
            contributions if operator.contributions else None,
            operator.sampling,
            operator.room,
            operator.note,
            operator.semidefinite,
            operator.error,
        )

    # --- derivatives by the block ------------------------------------------------------------------------------------

    def derivatives(
        self,
        outputs: Sequence[torch.Tensor | None],
        cotangents: Sequence[torch.Tensor | None] | None = None,
        keep: bool = False,
        graph: bool = False,
        by: Sequence[torch.Tensor] | None = None,
        theta: torch.Tensor | None = None,
    ) -> Pieces:
        """Derivatives of sum(outputs . cotangents); `keep` the graph of the outputs, make a `graph` of the result.

        Outputs that do not depend on the block contribute nothing. They are derivatives `by` the block or by other
        tensors; the outputs were computed here or at another `theta`.
        """
        weights, inputs = cotangents or [None] * len(outputs), self.learning if by is None else by
        pairs = [(o, c) for o, c in zip(outputs, weights, strict=True) if o is not None and o.requires_grad]
        if not pairs or not inputs:
            return (None,) * len(inputs)
        with self._backward(self._at(theta)):
            return torch.autograd.grad(
                [o for o, _ in pairs],
                inputs,
                [c for _, c in pairs],
                retain_graph=keep or graph,
                create_graph=graph,
                allow_unused=True,
            )

    def flat(self, pieces: Pieces) -> torch.Tensor:
        """Derivatives as one vector (P,); zero where there is no dependence."""
        return flattened(pieces, self._block)

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """A vector (P,) as the pieces that belong to the learning parameters."""
        return [
            piece.view(parameter.shape)
            for piece, parameter in zip(torch.split(vector, self._sizes), self._block, strict=True)
            if parameter.requires_grad
        ]

    def block(self, whole: torch.Tensor) -> torch.Tensor:
        """The block's part (P,) of a vector over all parameters."""
        return torch.cat([whole[where] for where in self._where])

    def embedded(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector (P,) of the block as one over all parameters, zero elsewhere."""
        whole = torch.zeros_like(self.theta)
        for where, piece in zip(self._where, torch.split(vector, self._sizes), strict=True):
            whole[where] = piece
        return whole

    def moved(self, displacement: torch.Tensor) -> torch.Tensor:
        """theta, the learning part of its block displaced by a vector (P,); a new tensor over all parameters."""
        theta = self.theta.clone()
        pieces = torch.split(displacement, self._sizes)
        for parameter, where, piece in zip(self._block, self._where, pieces, strict=True):
            if parameter.requires_grad:
                theta[where] += piece
        return theta
