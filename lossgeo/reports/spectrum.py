"""What does the spectrum look like? Its ends, its trace, what stands apart, and how much of it lies near zero or below.

Shares are cut at a fraction of the largest |lambda|, never at zero itself: a spectrum is densest there, and dozens of
Lanczos steps do not tell on which side of zero its middle lies. A row holds what was measured at one step, and borrows
nothing from another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, final

import pandas as pd
from pydantic import Field

from lossgeo.reports import OperatorName, ProbeKey, Report, Summary, choice_note
from lossgeo.reports.analysis.spectra import APART, Measured
from lossgeo.reports.analysis.study import WHOLE, Study
from lossgeo.tables import Row

if TYPE_CHECKING:
    from lossgeo.reports.figures.style import Figure

TABLES = ("eigenvalues", "trace", "density")
KEYS = ["run", "replica", "step", "parameters"]
EACH = "each"
CLEAR = 1.5  # the least ratio worth calling a gap: the edge of a random matrix (GOE) reaches 1.03, heavier tails more
NAMED = 3  # examples in a note, after which the rest is counted


@final
class Spectrum(Report):
    """The ends of a spectrum, its trace, its outliers, and how much of it lies near zero or below.

    lambda_max, lambda_min: with the bracket over data, or the solver's residual. outliers: the top eigenvalues above
    the widest gap in log(lambda), among the first 2 C for C classes; outliers_by_mass: what the density has above the
    same edge. Masses are shares of all eigenvalues, cut at +- near_zero times the largest |lambda|.

    Source: Sagun et al. 2017 (bulk and outliers); Papyan 2020 (their number); Ghorbani et al. 2019 (the density).
    """

    operator: OperatorName = "hessian"
    parameters: str = Field(
        default=WHOLE, description="group of parameters, as the probes name it; * is all, each: a row for every group"
    )
    probe: ProbeKey = None
    step: Literal["last", "all"] | int = Field(
        default="last", description="last, all, or a step: the last measurement at or before it"
    )
    near_zero: float = Field(default=0.01, gt=0, lt=1, description="|lambda| up to this share of the largest is near 0")

    def render(self, study: Study) -> Summary:
        """A row per run and step, and per group of parameters; what was not measured is None.

        Raises:
            UsageError: `probe` names one that measured nothing of the kind.
        """
        tables = self._tables(study)
        spectra = self._spectra(study, tables)
        several = any(one.replica for one in spectra)
        rows = tuple(
            {
                "run": one.run.id,
                **study.settings.loc[one.run.id].to_dict(),
                **({"replica": one.replica} if several else {}),
                "step": one.step,
                "operator": self.operator,
                "parameters": one.parameters,
                **one.numbers(self.near_zero),
            }
            for one in spectra
        )
        notes = [*self._missing(study, tables, spectra), *self._reading(spectra, rows), *_doubts(spectra, rows)]
        where = "" if self.parameters == WHOLE else f", {self.parameters}"

        def draw() -> Figure:
            from lossgeo.reports.figures import spectrum

            return spectrum.draw(study, spectra, self.operator, self.near_zero)

        drawable = any(one.density or len(one.end("top")) for one in spectra)
        title, nothing = f"Spectrum of the {self.operator}{where}", not any(one.told for one in spectra)
        return Summary(title, rows, tuple(notes), draw if drawable else None, empty=nothing)

    def _tables(self, study: Study) -> dict[str, pd.DataFrame]:
        """The rows of the operator in each of TABLES, by one probe a table."""
        group = None if self.parameters == EACH else self.parameters
        probes = study.chosen(TABLES, self.operator, group, self.probe)
        return {name: study.measured(name, self.operator, group, probe) for name, probe in probes.items()}

    def _spectra(self, study: Study, tables: dict[str, pd.DataFrame]) -> list[Measured]:
        """The spectra in the order of runs and steps; a run without any measurement keeps its place."""
        good = {name: rows[rows["failure"].isna()] for name, rows in tables.items()}
        groups = {name: dict(list(rows.groupby(KEYS, sort=False))) for name, rows in good.items()}
        every = pd.concat([rows[KEYS] for rows in tables.values()], ignore_index=True).drop_duplicates()
        spectra = []
        for run in study.runs:
            mine = every[every["run"] == run.id].sort_values(["step", "replica"], kind="stable")
            steps = mine["step"] if isinstance(self.step, str) else mine.loc[mine["step"] <= self.step, "step"]
            wanted = mine if self.step == "all" else mine[mine["step"] == steps.max()]
            keys = list(wanted.itertuples(index=False, name=None)) or [(run.id, 0, None, self.parameters)]
            for key in keys:
                of_key = {name: groups[name].get(key, good[name].iloc[:0]) for name in TABLES}
                step = None if key[2] is None else int(key[2])
                parts = (of_key["eigenvalues"], of_key["trace"], of_key["density"])
                spectra.append(Measured(run, int(key[1]), step, str(key[3]), *parts))
        return spectra

    def _missing(self, study: Study, tables: dict[str, pd.DataFrame], spectra: list[Measured]) -> Iterator[str]:
        without = sum(one.step is None for one in spectra)
        if without:
            others = pd.concat([study.measured(name, self.operator, None)["parameters"] for name in TABLES])
            groups = [str(group) for group in others.unique() if group != self.parameters]
            hint = f"; measured are the groups {', '.join(groups)}" if groups else ""
            yield f"{without} of {len(study.runs)} runs have no spectrum of the {self.operator}{hint}."
        shown = {(one.run.id, one.step) for one in spectra}
        for name, rows in tables.items():
            failed = rows[rows["failure"].notna()].drop_duplicates(["run", "replica", "step"])
            here = failed.loc[[pair in shown for pair in zip(failed["run"], failed["step"], strict=True)]]
            for reason, count in Counter(here["failure"]).most_common():
                yield f"{count} measurements of {name} failed: {reason}."
            group = None if self.parameters == EACH else self.parameters
            yield from choice_note(study, self.operator, group, self.probe, name)

    def _reading(self, spectra: list[Measured], rows: tuple[Row, ...]) -> Iterator[str]:
        """The meaning of columns that hold anything."""
        if any(row["outliers"] is not None for row in rows):
            yield (
                "outliers: eigenvalues above the widest gap in log(lambda) among the first 2 x classes; gap is its"
                " ratio, edge its middle, outliers_by_mass what the density has above the edge."
            )
        if any(row["vectors"] for row in rows):
            yield (
                f"mass_near_zero: |lambda| up to {self.near_zero:g} of the largest; negative_mass: below minus that."
                " The 95% intervals hold the error over random vectors and all that the nodes leave open between them."
            )
        if any(one.density and one.density.parts for one in spectra):
            yield (
                "Masses over a sample lean: with fewer examples than parameters more eigenvalues are zero and both"
                " tails are longer than over all the data; the interval allows for what parts of the sample show of it,"
                " which is not all."
            )


def _doubts(spectra: list[Measured], rows: tuple[Row, ...]) -> Iterator[str]:
    """What speaks against the numbers."""
    apart = [(one, one.outliers, row) for one, row in zip(spectra, rows, strict=True) if one.outliers is not None]
    vague = sum(outliers.gap < CLEAR for _, outliers, _ in apart)
    if vague:
        yield f"In {vague} of {len(apart)} spectra no gap is wider than {CLEAR:g} x: nothing clearly stands apart."
    short = [one.limit + 1 for one, _, _ in apart if one.limit is not None and len(one.top) <= one.limit]
    if short:
        yield (
            f"In {len(short)} of {len(apart)} spectra fewer top eigenvalues are known than the rule for outliers looks"
            f" at: measure `eigenvalues` with `top: {max(short)}`."
        )
    apart = [(one, outliers, row) for one, outliers, row in apart if row["outliers_by_mass"] is not None]
    wrong = [row for _, _, row in apart if not _within(row, "outliers", "outliers_by_mass")]
    if wrong:
        yield f"In {len(wrong)} of {len(apart)} spectra the density does not have as many eigenvalues above the edge."
    ends = pd.concat([one.eigenvalues for one in spectra])
    unconverged = int((~ends["converged"].eq(True)).sum())
    if unconverged:
        yield f"{unconverged} of {len(ends)} eigenvalues had not converged."
    mixed = sum(len(one.shared("samples")) > 1 for one in spectra)
    if mixed:
        yield f"In {mixed} of {len(spectra)} spectra eigenvalues, trace and density are of different samples."
    found = [f"run {one.run.id} at step {one.step}: {what}" for one in spectra for what in one.disagreements()]
    if found:
        rest = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        yield f"Estimates more than {APART:g} standard errors apart: {'; '.join(found[:NAMED])}{rest}."


def _within(row: Row, value: str, interval: str) -> bool:
    # half an eigenvalue more: the value is a whole number, the ends are not
    return bool(row[f"{interval}_low"] - 0.5 <= row[value] <= row[f"{interval}_high"] + 0.5)
