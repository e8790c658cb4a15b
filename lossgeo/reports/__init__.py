"""Reports: tables in, an answer out. A report reads a `Study` and never imports torch.

This interface imports neither pandas nor scipy: a recipe names its report, and training would wait for them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from lossgeo.components.component import Component
from lossgeo.errors import NothingToReport
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.analysis.study import Study
    from lossgeo.reports.figures.style import Figure

# fields that several reports share
OperatorName = Annotated[str, Field(description="operator whose curvature is shown, as the probes name it")]
ParametersGlob = Annotated[str, Field(description="group of parameters, as the probes name it; * is all")]
ProbeKey = Annotated[
    str | None, Field(description="probe to read, where several measured the operator; else the best of each step")
]

# intervals with other names than X_low and X_high: columns that are older than these
OTHER_ENDS = {"median_steps": ("low", "high"), "value": ("low", "high")}


@dataclass(frozen=True)
class Summary:
    """What a report found.

    rows   at least one; flat, with the same keys in every row, of plain Python values; None is missing, never NaN.
           The columns `ends_of` X are the interval of column X: a format rounds X by it, a claim is judged by it.
           `error_of` X, where there is no interval, rounds X too: the error of measuring, whatever else would vary.
    notes  sentences a reader of the rows needs: what was left out and why, which comparison is not fair.
    draw   makes the figure and imports matplotlib only then; None where there is nothing to draw.
    empty  whether no row says anything, so that the notes, which say why, are the whole answer.
    shared for a column whose numbers stand in several rows (a slope through them): a mark a row, equal where the number
           is one. The numbers of any other column are each row's own, equal or not.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    draw: Callable[[], Figure] | None = None
    shared: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    empty: bool = False

    def required(self) -> Summary:
        """The summary itself, for those who asked for an answer.

        Raises:
            NothingToReport: it is empty; the message holds the notes.
        """
        if self.empty:
            raise NothingToReport(f"{self.title}: there is nothing to report. {' '.join(self.notes)}".rstrip())
        return self


class Report(Component):
    """One question to a study."""

    @abstractmethod
    def render(self, study: Study) -> Summary:
        """The answer. Runs that cannot contribute are shown or counted, never dropped in silence."""


def ends_of(column: str) -> tuple[str, str]:
    """The names of the columns that hold the interval of a column, where a report has one."""
    return OTHER_ENDS.get(column, (f"{column}_low", f"{column}_high"))


def error_of(column: str) -> str:
    """The name of the column that holds what measuring leaves open of a column: no interval that it is judged by."""
    return f"{column}_error"


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


def choice_note(study: Study, operator: str, parameters: str | None, probe: str | None, table: str) -> list[str]:
    """A note where several probes measured the operator and none was named."""
    choices = study.choices(operator, parameters, table) if probe is None else []
    how = "the one over the most examples counts, then the one with the smallest error"
    return [f"Of {' and '.join(choices)}, at each step {how}; choose with `probe`."] if choices else []
