"""What a run takes of a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets._arrays import Array, lost
from lossgeo.landscapes.task import Examples, Task


@dataclass(frozen=True)
class Data:
    """What a run trains and is evaluated on, float64 (tokens and classes int64) on the CPU."""

    train: Examples
    test: Examples
    task: Task
    name: str  # of the component that it came from
    source: str
    sha256: str  # of the raw arrays: their shapes, types and bytes, before anything was chosen
    rows: tuple[Array, Array] | None = None  # every train and test example's place in the source; None: it has none
    columns: tuple[str, ...] = ()  # what the source calls the features, where it is a table
    notes: tuple[str, ...] = ()  # what was guessed or left as it was, a few words each

    @property
    def understood(self) -> str:
        """What the data were taken for, in a line: `inputs 28 x 28, 1 channel; 10 classes; 1,438 train, 359 test`."""
        return "; ".join([str(self.task), f"{self.train.size:,} train, {self.test.size:,} test", *self.notes])

    def refuse_lost(self, dtype: torch.dtype) -> None:
        """Refuse numbers that a dtype makes infinite, and a feature that varies and no longer does in it.

        Raises:
            UsageError: there is one, with its place in the source.
        """
        name = str(dtype).removeprefix("torch.")
        for part, examples in enumerate((self.train, self.test)):
            for what, numbers in zip(("inputs", "targets"), examples, strict=True):
                found = lost(numbers, dtype, varies=part == 0) if numbers.is_floating_point() else None
                if found is None:
                    continue
                example, feature, number, infinite = found
                row = int(self.rows[part][example]) if self.rows else example
                if what == "inputs" and self.columns:
                    place = f"column {self.columns[feature]!r} is {number!r} in row {row + 1}"
                else:
                    place = f"number {feature} of the {what} is {number!r} in example {row} (counted from 0)"
                why = "does not hold" if infinite else "cannot tell from the others there"
                raise UsageError(
                    f"{self.source}: {place}, which {name} {why}; use `dtype: float64` or `standardize: true`, or take "
                    "it out"
                )

    def described(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "train": self.train.size,
            "test": self.test.size,
            "inputs": self.task.inputs,
            "outputs": self.task.outputs,
        }
