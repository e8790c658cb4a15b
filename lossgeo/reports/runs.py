"""One row a run: what was swept, how it ended, and its last numbers."""

from __future__ import annotations

from collections import Counter
from typing import final

from lossgeo.reports import OperatorName, ProbeKey, Report, Summary, choice_note
from lossgeo.reports.analysis.study import WHOLE, Study
from lossgeo.reports.analysis.trials import shown

CURVATURE = ("lambda_max", "lambda_max_low", "lambda_max_high", "trace", "trace_low", "trace_high")
LAST = ("train_loss", "test_loss", "test_accuracy", *CURVATURE)


@final
class Runs(Report):
    """Every run with what was swept, its status, its last numbers and its seconds.

    The numbers are means over the trials used: those that did not diverge, and of which all is known that is known of
    any. diverged and failed are the others.
    """

    operator: OperatorName = "hessian"
    probe: ProbeKey = None

    def render(self, study: Study) -> Summary:
        """One row a run, whatever its state; a number that was never measured is None."""
        numbers = study.final(self.operator, WHOLE, self.probe)
        rows = tuple(
            {
                "run": run.id,
                **study.settings.loc[run.id].to_dict(),
                "status": run.status,
                "reason": run.manifest.get("reason"),
                "step": run.manifest.get("step"),
                **shown(numbers.loc[run.id].to_dict(), LAST),
                "seconds": run.manifest.get("seconds"),
                "probe_seconds": run.manifest.get("probe_seconds"),
                "folder": str(run.folder),
            }
            for run in study.runs
        )
        states = Counter(run.status for run in study.runs)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        notes = [f"{len(rows)} runs: {counts}."]
        notes += [
            note
            for table in ("eigenvalues", "trace")
            for note in choice_note(study, self.operator, WHOLE, self.probe, table)
        ]
        apart = int(
            (numbers["train_loss_step"] != numbers["lambda_max_step"]).where(numbers["lambda_max"].notna()).sum()
        )
        if apart:
            notes.append(f"In {apart} rows the losses and lambda_max are of different steps.")
        for count, of_them in (("diverged", "diverged"), ("failed", "lack a number that others have")):
            if numbers[count].sum():
                notes.append(f"{numbers[count].sum()} trials {of_them}; no number is over them.")
        return Summary("Runs", rows, tuple(notes))
