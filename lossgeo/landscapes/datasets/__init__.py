"""Data: each file one source. The interface does what all share: choosing classes, splitting, noise, standardizing.

Everything random about the data comes from the dataset's own `seed`, not from the run's: a sweep over `seed` repeats an
experiment on the same data, and a sweep over `dataset.seed` redraws the split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from lossgeo.components.component import Component
from lossgeo.components.reads import counted
from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets._arrays import Array, indicators, inexact, sha256_of, standardized
from lossgeo.landscapes.datasets._data import Data as Data
from lossgeo.landscapes.datasets._targets import told
from lossgeo.landscapes.task import Examples, Targets, Task
from lossgeo.randomness import generator

Kind = Literal["classes", "values", "auto"]


@dataclass(frozen=True)
class Raw:
    """All that a source holds: N examples in the source's own order."""

    inputs: Array  # (N, features), (N, channels, length), (N, channels, height, width); (N, length) ids of tokens
    targets: Array  # (N,) labels, numbers or text; (N, outputs) values; (N, length) ids: next tokens
    source: str  # what it is and which version of it, for the record of a run
    vocabulary: int | None = None  # ids of tokens are from 0 to below this; None: inputs are numbers
    columns: tuple[str, ...] = ()  # what the source calls the features, where it is a table
    target: str = "targets"  # what it calls the targets
    notes: tuple[str, ...] = ()  # what was guessed while reading, a few words each


def _said_as(meaning: str) -> WrapValidator:
    """One message for a union, where pydantic has one for each branch that the value is not."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"should be {meaning}, not {value!r:.60}") from None

    return WrapValidator(check)


SetSize = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)],
    _said_as("a count of at least 1 or a fraction between 0 and 1"),
]
Labels = Annotated[tuple[int | str, ...], Field(min_length=2)]
Choice = Annotated[
    Annotated[int, Field(ge=2)] | Labels | None,
    _said_as("a number of classes, at least 2, or a list of two or more labels, each a whole number or text"),
]


class Dataset(Component):
    """A source of examples, and what to take from it."""

    kind: ClassVar[Kind]  # what its targets are; auto: known only once the data are read
    joined: ClassVar[Mapping[str, Any]] = MappingProxyType({"standardize_targets": "auto"})

    train: SetSize | None = Field(
        default=None, description="training examples: a count, a fraction, or null for the rest"
    )
    test: SetSize = Field(default=0.2, description="test examples: a count or a fraction")
    classes: Choice = Field(
        default=None, description="classes to keep: the first K, or a list of labels, renumbered from 0; null for all"
    )
    label_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of the training labels that are redrawn, uniformly over the classes",
    )
    standardize: bool = Field(
        default=True, description="give inputs (and target values) mean 0 and variance 1 on train; never tokens"
    )
    standardize_targets: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="whether `standardize` takes target values too; auto: unless all are 0 or 1, or -1 or 1",
    )
    components: int | None = Field(
        default=None,
        ge=1,
        description="principal components to take in place of the inputs, each of variance 1 on train; null: none",
    )
    seed: int = Field(
        default=0, ge=0, description="draws the split, the label noise and whatever else the source draws"
    )

    @abstractmethod
    def read(self, generator: torch.Generator) -> Raw:
        """All examples of the source; whatever it draws at random comes from the generator.

        Raises:
            UsageError: the source cannot be read, with the way out.
        """

    @final
    def sha256(self) -> str:
        """The digest of what the source holds now, as `Data` has it; reads all of it.

        Raises:
            UsageError: the source cannot be read.
        """
        raw = self._raw()
        return sha256_of(raw.inputs, raw.targets)

    @final
    def load(self, accepts: tuple[Targets, ...] = ()) -> Data:
        """The examples that the fields ask for; a function of the fields, the file's content and `accepts` alone.

        `accepts` is what the loss takes, which decides where type and shape of the targets leave their kind open. Where
        it is empty, whole numbers (N,) are classes.

        One permutation orders the examples; train is taken from its front and test from its back. So train sets of
        growing size contain each other, and the test set does not depend on the train size.

        Raises:
            UsageError: the source cannot be read, does not hold what the fields ask for, or could be read in two ways.
        """
        raw = self._raw()
        self._refuse_broken(raw)
        kind: Targets = "classes"
        labels: tuple[Any, ...] = ()
        rows, notes = np.arange(len(raw.inputs)), list(raw.notes)
        if raw.vocabulary is not None:
            inputs, targets, outputs = self._of_tokens(raw, raw.vocabulary)
        else:
            meant = self._option_of_classes() is not None
            kind, targets, known = told(raw.targets, self.kind, meant, accepts, f"{raw.source}: {raw.target}")
            inputs, outputs = raw.inputs.astype(np.float64), targets.shape[-1]
            if kind == "classes":
                rows, targets, labels, outputs = self._of_classes(raw, targets, known)
                inputs = inputs[rows]
            elif (option := self._option_of_classes()) is not None:
                raise UsageError(f"{raw.source}: the targets are values, not classes; leave `{option}` out")
        first, last = self._split(len(inputs))
        train_inputs, test_inputs = inputs[first], inputs[last]
        train_targets, test_targets = targets[first], targets[last]
        if self.label_noise > 0:
            train_targets = self._noisy(train_targets, outputs)
        if kind == "values" and self.standardize:
            if self.standardize_targets == "always" or (self.standardize_targets == "auto" and not indicators(targets)):
                train_targets, test_targets = standardized(train_targets, test_targets)
            elif self.standardize_targets == "auto":
                notes.append("target values stay as they are, yes or no")
        if self.standardize and raw.vocabulary is None:
            train_inputs, test_inputs = standardized(train_inputs, test_inputs)
        elif raw.vocabulary is None:
            notes.append(f"inputs stay as they are, {train_inputs.min():.4g} to {train_inputs.max():.4g}")
        if self.components is not None:
            train_inputs, test_inputs = self._principal(raw, train_inputs, test_inputs, self.components)
        return Data(
            train=Examples(torch.from_numpy(train_inputs), torch.from_numpy(train_targets)),
            test=Examples(torch.from_numpy(test_inputs), torch.from_numpy(test_targets)),
            task=Task(train_inputs.shape[1:], outputs, kind, raw.vocabulary, labels),
            name=self.component_name(),
            source=raw.source,
            sha256=sha256_of(raw.inputs, raw.targets),
            rows=(rows[first], rows[last]),
            columns=raw.columns if self.components is None else (),
            notes=tuple(notes),
        )

    def _raw(self) -> Raw:
        with counted():  # by the digest of what is read
            return self.read(generator(self.seed, "examples"))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "values" and (option := self._option_of_classes()) is not None:
            raise ValueError(f"the targets are values, not classes; leave `{option}` out")
        if isinstance(self.classes, tuple) and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"`classes` names a label twice: {list(self.classes)}")
        if isinstance(self.train, float) and isinstance(self.test, float) and self.train + self.test > 1 + 1e-9:
            raise ValueError(f"train {self.train:g} + test {self.test:g} is more than the whole; lower one of them")
        return self

    def _option_of_classes(self) -> str | None:
        """An option in use that has no meaning for values, nor for tokens."""
        return "classes" if self.classes is not None else "label_noise" if self.label_noise > 0 else None

    def _refuse_broken(self, raw: Raw) -> None:
        if len(raw.inputs) != len(raw.targets):
            raise UsageError(f"{raw.source}: {len(raw.inputs)} inputs, but {len(raw.targets)} targets")
        if raw.inputs.size == 0 or raw.targets.size == 0:
            raise UsageError(
                f"{raw.source}: there is nothing in it: inputs {raw.inputs.shape}, targets {raw.targets.shape}"
            )
        if raw.inputs.dtype.kind not in "biuf":
            raise UsageError(f"{raw.source}: the inputs hold {raw.inputs.dtype}, not numbers")
        if (found := inexact(raw.inputs)) is not None:
            raise UsageError(
                f"{raw.source}: the inputs of example {found[0]} (counted from 0) hold {found[1]}, which no "
                "float64 holds; make it smaller or leave it out"
            )
        for what, array in (("inputs", raw.inputs), ("targets", raw.targets)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                example = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
                raise UsageError(f"{raw.source}: the {what} of example {example} (counted from 0) hold NaN or infinity")

    def _of_tokens(self, raw: Raw, vocabulary: int) -> tuple[Array, Array, int]:
        """Inputs and targets as they are, and the number of tokens, any of which may come next.

        A target below 0 is one that no loss counts unless told so by its `ignore_index`.
        """
        if (option := self._option_of_classes()) is not None:
            raise UsageError(f"{raw.source}: the targets are the next tokens; leave `{option}` out")
        if raw.inputs.ndim != 2 or raw.targets.shape != raw.inputs.shape:
            raise UsageError(f"{raw.source}: tokens {raw.inputs.shape} and targets {raw.targets.shape} should match")
        whole = all(array.dtype.kind in "iu" for array in (raw.inputs, raw.targets))
        if not whole or raw.inputs.min() < 0 or max(raw.inputs.max(), raw.targets.max()) >= vocabulary:
            raise UsageError(f"{raw.source}: tokens should be whole numbers from 0 to {vocabulary - 1}")
        return raw.inputs.astype(np.int64), raw.targets.astype(np.int64), vocabulary

    def _of_classes(self, raw: Raw, places: Array, known: list[Any]) -> tuple[Array, Array, tuple[Any, ...], int]:
        """The examples of the classes to keep: their places, targets numbered from 0, odd labels, number of classes."""
        if self.classes is None:
            keep = list(range(len(known)))
        elif isinstance(self.classes, int):
            if self.classes > len(known):
                raise UsageError(
                    f"{raw.source}: `classes: {self.classes}`, but there are {len(known)}: {_several(known)}"
                )
            keep = list(range(self.classes))
        else:
            for label in self.classes:
                if label not in known:
                    raise UsageError(f"{raw.source}: class {label!r} is not among {_several(known)}")
            keep = [known.index(label) for label in self.classes]
        if len(keep) < 2:
            raise UsageError(f"{raw.source}: all examples are of one class, {known[0]!r}; there is nothing to learn")
        number = np.full(len(known), -1)
        number[keep] = np.arange(len(keep))
        targets = number[places].astype(np.int64)
        labels = tuple(known[place] for place in keep)
        rows = np.flatnonzero(targets >= 0)
        return rows, targets[rows], () if labels == tuple(range(len(keep))) else labels, len(keep)

    def _split(self, size: int) -> tuple[Array, Array]:
        """The indices of the train and of the test examples."""
        test = _count(self.test, size)
        train = size - test if self.train is None else _count(self.train, size)
        if isinstance(self.train, float) and isinstance(self.test, float):
            train = min(train, size - test)  # both may have been rounded up: 0.7 and 0.3 of 5
        asked_train = "the rest" if self.train is None else self.train
        asked = f"dataset {self.component_name()!r}: train {asked_train} + test {self.test}"
        for count, name in ((train, "training"), (test, "test")):
            if count < 1:
                raise UsageError(f"{asked} of {size} examples leaves no {name} example; change `train` or `test`")
        if train + test > size:
            raise UsageError(f"{asked} of {size} examples: {train + test - size} too many; lower one of them")
        order = torch.randperm(size, generator=generator(self.seed, "split")).numpy()
        return order[:train], order[size - test :]

    def _principal(self, raw: Raw, train: Array, test: Array, count: int) -> tuple[Array, Array]:
        """Inputs (N, K) along the first principal components of train, white there: of mean 0 and covariance 1."""
        if raw.vocabulary is not None:
            raise UsageError(f"{raw.source}: tokens have no principal components; leave `components` out")
        flat, other = (part.reshape(len(part), -1) for part in (train, test))
        mean = flat.mean(axis=0)
        _, spread, axes = np.linalg.svd(flat - mean, full_matrices=False)
        if count > int((spread > 1e-10 * spread[0]).sum()):
            rank = int((spread > 1e-10 * spread[0]).sum())
            raise UsageError(f"{raw.source}: `components: {count}`, but the train inputs have {rank} that vary")
        axes = axes[:count] * np.sign(axes[np.arange(count), np.abs(axes[:count]).argmax(axis=1)])[:, None]
        scaled = axes.T * (len(flat) ** 0.5 / spread[:count])
        return (flat - mean) @ scaled, (other - mean) @ scaled

    def _noisy(self, targets: Array, classes: int) -> Array:
        """The targets, round(label_noise N) of them drawn anew; a draw may by chance give the old label again."""
        stream = generator(self.seed, "label_noise")
        redrawn = torch.randperm(len(targets), generator=stream)[: round(self.label_noise * len(targets))]
        noisy = targets.copy()
        noisy[redrawn.numpy()] = torch.randint(classes, redrawn.shape, generator=stream).numpy()
        return noisy


def _count(share: int | float, size: int) -> int:
    return share if isinstance(share, int) else round(share * size)


def _several(labels: list[Any]) -> str:
    whole = all(isinstance(label, int) for label in labels)
    if whole and labels == list(range(labels[0], labels[0] + len(labels))):
        return f"{labels[0]}..{labels[-1]}"
    shown = ", ".join(repr(label) for label in labels[:10])
    return shown if len(labels) <= 10 else f"{shown} and {len(labels) - 10} more"
