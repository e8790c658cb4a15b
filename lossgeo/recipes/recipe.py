"""What was asked: the keys of a recipe, validated and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lossgeo.components.component import Value
from lossgeo.components.finding import hint, names
from lossgeo.components.times import MAX_STEPS, Times
from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.landscape import Evaluation
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.surfaces import Surface
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.schedules import Schedule
from lossgeo.optimizers.schedules.constant import Constant
from lossgeo.probes import Probe
from lossgeo.reports import Report
from lossgeo.saddles.saddle import EscapeRule, Start


class Expected(Value):
    """The range in which a claim's statistic should lie, of the report's rows with these settings."""

    where: dict[str, str | int | float | bool] = Field(default={}, description="columns of the report and their values")
    low: float | None = Field(default=None, description="lower end of the range; null: none")
    high: float | None = Field(default=None, description="upper end of the range; null: none")


JUDGE = "claims"  # the report that judges claims, and tests none


class Claim(Value):
    """What the literature says and this recipe tests."""

    says: str = Field(description="the claim in one sentence")
    source: str = Field(description="where it was made")
    report: str = Field(description="the report that tests it")
    statistic: str | None = Field(default=None, description="column of that report by which it is judged; null: by eye")
    expected: tuple[Expected, ...] = Field(default=(), description="what the statistic should be, row by row")

    @model_validator(mode="after")
    def _known_report(self) -> Self:
        known = [name for name in names(Report) if name != JUDGE]
        if self.report not in known:
            raise ValueError(f"no report is named {self.report!r}; {hint(self.report, known)}")
        return self


class Stop(Value):
    """Training ends at the first evaluation at which any of these holds, on the whole training set."""

    train_loss_below: float | None = Field(default=None, description="training loss")
    train_accuracy_above: float | None = Field(default=None, ge=0, lt=1, description="training accuracy, a fraction")
    gradient_norm_below: float | None = Field(default=None, gt=0, description="norm of the full gradient")

    def met(self, evaluation: Evaluation, gradient_norm: float | None) -> bool:
        """Whether one of them holds."""
        (loss, accuracy), norm = evaluation, gradient_norm
        return (
            (self.train_loss_below is not None and loss < self.train_loss_below)
            or (self.train_accuracy_above is not None and accuracy is not None and accuracy > self.train_accuracy_above)
            or (self.gradient_norm_below is not None and norm is not None and norm < self.gradient_norm_below)
        )


class Checkpoints(Times):
    """When the point is written to checkpoints/, and which points are kept."""

    keep: Literal["all", "last"] = Field(default="all", description="last: a new checkpoint replaces the one before")


class Recipe(Value):
    """One fully resolved recipe."""

    joined: ClassVar[Mapping[str, Any]] = MappingProxyType({"include_decay": False})

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="names the folder under outputs/; letters, digits, _ . -",
    )
    claim: Claim | None = Field(default=None, description="what this recipe tests")
    model: Model | None = Field(default=None, description="the network; needs `dataset` and `loss`")
    dataset: Dataset | None = Field(default=None, description="the data")
    loss: Loss | None = Field(default=None, description="the loss")
    surface: Surface | None = Field(default=None, description="or, in place of these three, an analytic surface")
    start: Start | None = Field(default=None, description="the saddle that trials begin at; null: none")
    escape: EscapeRule | None = Field(default=None, description="when a trial has left a saddle, and ends")
    replicas: int = Field(default=1, ge=1, le=1_000_000, description="independent trials, advanced side by side")
    optimizer: Optimizer = Field(description="the update rule")
    schedule: Schedule = Field(default=Constant(), description="factor on the learning rate over steps")
    batch_size: Annotated[int, Field(ge=1)] | Literal["full"] = Field(
        default="full", description="examples a step, drawn without replacement per epoch, or full"
    )
    include_decay: bool = Field(
        default=False,
        description="count weight decay, weight_decay / 2 |theta|^2, as a part of the loss in all that is told of it: "
        "losses, gradient norms, curvature, critical points and stop rules; training is the same",
    )
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="length of the training in steps")
    epochs: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="or in passes over the data")
    stop: Stop = Field(default=Stop(), description="rules that end training early")
    divergence: float = Field(
        default=1e4,
        gt=1,
        description="a batch loss above this multiple of the first training loss ends the run as diverged",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of initialization, batch order, noise and probes")
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = Field(
        default="auto",
        description="of parameters and data; auto: float32, on a surface float64. Probes compute in float32 at least",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$", description="auto: a GPU where there is one"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto", description="torch threads; auto: measured at the start, kept on resume"
    )
    log: Times = Field(default=Times(every=10), description="when a row of the table steps is written")
    evaluate: Times = Field(default=Times(every=100), description="when loss and accuracy of whole sets are measured")
    checkpoint: Checkpoints = Field(
        default=Checkpoints(log=10), description="when checkpoints are kept; one a minute is written for safety"
    )
    probes: tuple[Probe, ...] = Field(default=(), description="measurements along the way")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`, one of them")
        self._consistent_landscape()
        self._consistent_decay()
        if self.batch_size != "full" and self.escape is not None and self.escape.loss_drop is not None:
            raise ValueError("`escape.loss_drop` needs the whole loss at every step: set batch_size: full")
        keys = [probe.key() for probe in self.probes]
        for i, key in enumerate(keys):
            if (first := keys.index(key)) < i:
                raise ValueError(
                    f"probes.{first} and probes.{i} measure the same thing; "
                    "merge their schedules (`every`, `at` and `log` add up)"
                )
        return self

    @property
    def decay(self) -> float:
        """gamma of the gamma / 2 |theta|^2 that is a part of the loss."""
        return (self.optimizer.penalty() or 0.0) if self.include_decay else 0.0

    def _consistent_decay(self) -> None:
        if self.include_decay and self.optimizer.penalty() is None:
            raise ValueError(
                f"`include_decay`: {self.optimizer.component_name()}'s weight decay shrinks theta beside the gradient "
                "and is a part of no loss; use `optimizer: adam`, whose gradient holds it, or leave include_decay out"
            )
        if self.include_decay and (self.start is not None or self.escape is not None):
            raise ValueError(
                "`include_decay`: the saddles that `start` and `escape` know are those of the loss without decay; "
                "leave include_decay out, or these"
            )

    def _consistent_landscape(self) -> None:
        """Raises a ValueError unless there is a network with its data, or a surface, and what goes with it."""
        network = {"model": self.model, "dataset": self.dataset, "loss": self.loss}
        missing = [key for key, value in network.items() if value is None]
        if self.surface is not None:
            if len(missing) < 3:
                given = next(key for key, value in network.items() if value is not None)
                raise ValueError(f"`surface` takes the place of `{given}`: leave one of them out")
            if self.start is not None and self.start.plant is not None:
                raise ValueError(
                    "`start.plant` is for a network; a surface knows its saddles: use `start: {at: saddle}`"
                )
            return
        if missing:
            raise ValueError(f"{', '.join(f'`{key}`' for key in missing)} missing; or give a `surface`")
        if self.start is not None and self.start.plant is None:
            raise ValueError(
                "`start.at` needs a `surface`, whose saddles are known; plant one: `start: {plant: origin}`"
            )
        if self.start is None and self.escape is not None:
            raise ValueError("`escape` needs a `surface`, whose saddles are known, or `start.plant`")
        assert self.dataset is not None
        assert self.loss is not None
        kind = self.dataset.kind
        if kind != "auto" and kind not in self.loss.accepts:
            loss, dataset = self.loss.component_name(), self.dataset.component_name()
            raise ValueError(
                f"loss {loss!r} takes {' or '.join(self.loss.accepts)}, dataset {dataset!r} has {kind}; use `loss: mse`"
            )
