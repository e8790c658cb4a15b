"""Reports: tables in, an answer out. A report reads a `Study` and never imports torch.

This interface imports neither pandas nor scipy: a recipe names its report, and training would wait for them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from lossgeo.components.component import Component
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.analysis.study import Study
    from lossgeo.reports.figures.style import Figure

# fields that several reports share
OperatorName = Annotated[str, Field(description="operator whose curvature is shown, as the probes name it")]
ParametersGlob = Annotated[str, Field(description="group of parameters, as the probes name it; * is all")]
ProbeKey = Annotated[
    str | None, Field(description="probe to read, where several measured the operator; else the first")
]


@dataclass(frozen=True)
class Summary:
    """What a report found.

    rows   at least one; flat, with the same keys in every row, of plain Python values; None is missing, never NaN.
           Columns X_low and X_high are the interval of column X: a format rounds X by it, a claim is judged by it.
    notes  sentences a reader of the rows needs: what was left out and why, which comparison is not fair.
    draw   makes the figure and imports matplotlib only then; None where there is nothing to draw.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    draw: Callable[[], Figure] | None = None


class Report(Component):
    """One question to a study."""

    @abstractmethod
    def render(self, study: Study) -> Summary:
        """The answer. Runs that cannot contribute are shown or counted, never dropped in silence."""


def plain(value: Any) -> Any:
    """A value of a table or a frame for a row: a Python scalar, None for what is missing or not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def label(value: Any) -> str:
    """A setting for a legend or a sentence, in six digits: 0.3 and not 0.30000000000000004."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def choice_note(study: Study, operator: str, probe: str | None) -> list[str]:
    """A note where several probes measured the operator and none was named."""
    choices = study.choices(operator) if probe is None else []
    return [f"Each run's first of {', '.join(choices)} is shown; choose with `probe`."] if choices else []
