"""What the probes of an operator share: where it is taken, over which examples, and what they hand to each other."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.components.component import components, identity
from lossgeo.curvature.blocks import layers, matching
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.sample import Sample, Settings
from lossgeo.errors import UsageError
from lossgeo.landscapes.flat_module import BatchNormMode
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.probes import Measurement, Probe
from lossgeo.randomness import generator as named_generator
from lossgeo.tables import DECAY, Column, Row

FIRST = 256  # examples that `samples: auto` begins with
FLOAT32_TOLERANCE = 1e-5  # below it, products in float32 are too coarse
KNOWN_TOLERANCE = 1e-3  # of eigenpairs that are taken out: what they leave behind is estimated with the rest


class Found(NamedTuple):
    """What one probe made of one operator."""

    rows: list[Row]
    memory: Memory
    spread: float  # relative error over examples of the leading number; 0 over all of them, infinite where unknown
    vectors: Mapping[str, torch.Tensor] = MappingProxyType({})


class CurvatureProbe(Probe):
    """A probe of an operator over the training data."""

    operator: Operator = Field(default=Hessian(), description="the map that is measured")
    parameters: str = Field(
        default="*",
        min_length=1,
        description="glob of the parameters it is restricted to, as in layers.0.*; or several: a.*,b.*",
    )
    per_layer: bool = Field(default=False, description="measure every layer's block on its own, with rows for each")
    samples: Annotated[int, Field(ge=1)] | Literal["all", "auto"] = Field(
        default="all",
        description="training examples to measure on at the most, the first of the (shuffled) split; "
        "auto: doubled until the error over examples is within `width`",
    )
    data_error: bool = Field(
        default=True,
        description="on a sample: what it leaves open about all the examples; without it a probe costs half or less",
    )
    width: float = Field(default=0.1, gt=0, lt=10, description="what `samples: auto` aims at, relative to the value")
    batch_norm: BatchNormMode = Field(
        default="eval", description="eval: running statistics; batch: statistics of all the measured examples"
    )
    precision: Literal["auto", "float32", "float64"] = Field(
        default="auto",
        description="of the products; auto: that of the parameters, float32 at least, float64 below tolerance 1e-5",
    )
    memory: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="GiB that graphs and vectors may take; auto: half of what is free"
    )

    shared: ClassVar[tuple[Column, ...]] = (
        Column("operator", "string", "", f"name; second derivatives are those of the loss{DECAY}"),
        Column("settings", "string", "", "what else the operator was given, as JSON; null: nothing, or an older table"),
        Column("unit", "string", "", "of the operator's values, such as loss / parameter^2"),
        Column("parameters", "string", "", "glob of the parameters it is restricted to; * is all"),
        Column("size", "int", "", "dimension of the operator: the number of these parameters"),
        Column("samples", "int", "examples", "training examples it was measured on"),
        Column("batch_norm", "string", "", "eval: running statistics; batch: statistics of the measured examples"),
        Column("precision", "string", "", "floating-point type of the products"),
        Column("graph", "string", "", "kept: one graph served all products; rebuilt: it did not fit the memory"),
        Column("matvecs", "int", "products", "products that were new to this measurement; over parts, by their share"),
        Column("gradient_seconds", "float", "s", "one gradient over the same examples; seconds over it is the price"),
    )

    @abstractmethod
    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        """Rows with the probe's own columns."""

    @model_validator(mode="after")
    def _error_over_examples(self) -> Self:
        if self.samples == "auto" and not self.operator.of_parameters:
            raise ValueError("`samples: auto` needs an operator on the parameters, whose size the examples do not set")
        if self.samples == "auto" and not self.data_error:
            raise ValueError("`samples: auto` goes by the error over examples: set data_error: true")
        return self

    def exacting(self) -> bool:
        """Whether what is asked for needs products in float64."""
        return False

    def check(self, landscape: Landscape) -> None:
        matching(landscape, self.parameters)
        if not landscape.has_outputs:
            for part in components(self.operator):
                if isinstance(part, Operator) and part.of_outputs:
                    raise UsageError(
                        f"{part.component_name()} needs model outputs; {landscape.known.owner} is "
                        "analytic: use operator: hessian"
                    )

    @final
    def stream(self) -> str:
        """Probes of the same operator draw the same numbers, so that the second can go on from the first one's work."""
        asked = identity(self)
        other = {*Probe.model_fields, "data_error"}  # when it is measured, and what more is made of it
        taken = json.dumps([asked[n] for n in CurvatureProbe.model_fields if n in asked and n not in other])
        return f"curvature-{hashlib.sha256(taken.encode()).hexdigest()[:12]}-{self._dtype_name(torch.float32)}"

    @final
    def measure(self, landscape: Landscape, point: Point, memory: Memory, generator: torch.Generator) -> Measurement:
        rows: list[Row] = []
        kept: Memory = {}
        vectors: dict[str, torch.Tensor] = {}
        base = int(torch.randint(2**62, (), generator=generator))
        whole = {self.parameters: matching(landscape, self.parameters)}
        asked = {key: value for key, value in identity(self.operator).items() if key != "name"}
        blocks = layers(landscape, self.parameters) if self.per_layer else whole
        for label, names in blocks.items():
            mine = {key.removeprefix(f"{label}:"): t for key, t in memory.items() if key.startswith(f"{label}:")}
            for size in self._sizes(landscape.train.size):
                sample = self._sample(landscape, point, names, size)
                before = sample.cost
                found = self.spectrum(sample, mine, named_generator(base, label, size))
                shared = {
                    "operator": self.operator.component_name(),
                    "settings": json.dumps(asked, sort_keys=True) if asked else None,
                    "unit": self.operator.unit(),
                    "parameters": label,
                    "size": sample.operator.size,
                    "samples": size,
                    "batch_norm": self.batch_norm,
                    "precision": str(sample.operator.dtype).removeprefix("torch."),
                    "graph": sample.operator.note,
                    "matvecs": round(sample.cost - before),
                    "gradient_seconds": sample.here.gradient_seconds,
                }
                if found.spread <= self.width:
                    break
            rows += [shared | row for row in found.rows]
            kept |= {f"{label}:{name}": tensor for name, tensor in found.memory.items()}
            vectors |= {f"{label}:{name}": tensor for name, tensor in found.vectors.items()}
        return Measurement(rows, kept, vectors)

    def _sizes(self, available: int) -> Iterator[int]:
        """Numbers of examples to try in turn."""
        if self.samples == "all":
            yield available
        elif self.samples != "auto":
            yield min(self.samples, available)
        else:
            size = FIRST
            while size < available:
                yield size
                size *= 2
            yield available

    def _dtype_name(self, of_parameters: torch.dtype) -> str:
        if self.precision != "auto":
            return self.precision
        least = torch.float64 if self.exacting() else torch.float32
        return str(torch.promote_types(of_parameters, least)).removeprefix("torch.")

    def _sample(self, landscape: Landscape, point: Point, names: tuple[str, ...], size: int) -> Sample:
        """The operator over the first `size` examples, as the probe before may have left it."""

        def build() -> Sample:
            memory = None if self.memory == "auto" else int(self.memory * 2**30)
            dtype = getattr(torch, self._dtype_name(landscape.dtype))
            return Sample(Settings(self.operator, size, names, dtype, self.batch_norm, memory), landscape, point)

        sample: Sample = point.shared((self.stream(), names, size), build)
        return sample
