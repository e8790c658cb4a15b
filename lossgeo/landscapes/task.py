"""What a dataset asks of a model: the shape of an input, the number of outputs, the kind of target; and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

Targets = Literal["classes", "values"]

SHOWN = 6  # labels in a line


@dataclass(frozen=True)
class Task:
    """The contract between a dataset and a model.

    A sequence of tokens (`vocabulary` is given) has outputs and targets at every position; everything else has one row
    of outputs an example.
    """

    inputs: tuple[int, ...]  # one example: (features,), (channels, length), (channels, height, width); tokens (length,)
    outputs: int  # numbers the model returns for an example, or a position: classes, or values to predict
    targets: Targets
    vocabulary: int | None = None  # inputs are ids of tokens, from 0 to below this; None: they are numbers
    labels: tuple[Any, ...] = ()  # what the source calls the classes, where these are not 0, 1, 2, ...

    def __str__(self) -> str:
        """Inputs and targets in a line: `inputs 28 x 28, 1 channel; 10 classes`."""
        if self.vocabulary is not None:
            return f"inputs {_many(self.inputs[0], 'token')} of {self.vocabulary} kinds; the next one at each"
        if len(self.inputs) == 1:
            shape = _many(self.inputs[0], "number")
        else:
            channels, *sides = self.inputs
            long = " long" if len(sides) == 1 else ""
            shape = f"{' x '.join(map(str, sides))}{long}, {_many(channels, 'channel')}"
        if self.targets == "values":
            return f"inputs {shape}; {_many(self.outputs, 'value')} to predict"
        shown = ", ".join(map(str, self.labels[:SHOWN])) + (", ..." if len(self.labels) > SHOWN else "")
        return f"inputs {shape}; {self.outputs} classes" + (f" ({shown})" if shown else "")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What the model returns for one example: (outputs,), or (length, outputs) for tokens."""
        return (self.outputs,) if self.vocabulary is None else (*self.inputs, self.outputs)


class Examples(NamedTuple):
    """N examples; indexing and slicing go through `rows`."""

    inputs: torch.Tensor  # (N, *task.inputs), floating point; (N, length) int64 tokens
    targets: torch.Tensor  # (N,) int64 classes, (N, length) of them for tokens, or (N, outputs) floating point values

    @property
    def size(self) -> int:
        return int(self.inputs.shape[0])

    def rows(self, which: slice | torch.Tensor) -> Examples:
        """The examples that a slice (without copying) or a tensor of indices (with copying) picks."""
        return Examples(self.inputs[which], self.targets[which])


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
