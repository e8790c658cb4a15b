"""One row a run: what was swept, how it ended, and its last numbers."""

from __future__ import annotations

from collections import Counter
from typing import final

import pandas as pd

from lossgeo.reports import OperatorName, ProbeKey, Report, Summary, plain
from lossgeo.reports.analysis.study import Study, last


@final
class Runs(Report):
    """Every run with what was swept, its status, its last numbers and its seconds."""

    operator: OperatorName = "hessian"
    probe: ProbeKey = None

    def render(self, study: Study) -> Summary:
        """One row a run, whatever its state; a number that was never measured is None."""
        measured = (study.evaluations(), study.top_eigenvalues(self.operator, self.probe), study.traces(self.operator))
        final_numbers = pd.concat([last(rows).drop(columns="step") for rows in measured], axis=1)
        final_numbers = final_numbers.reindex([run.id for run in study.runs])
        columns = ["train_loss", "test_loss", "test_accuracy", "lambda_max", "trace"]
        rows = tuple(
            {
                "run": run.id,
                **study.settings.loc[run.id].to_dict(),
                "status": run.status,
                "reason": run.manifest.get("reason"),
                "step": run.manifest.get("step"),
                **{column: plain(final_numbers.at[run.id, column]) for column in columns},
                "seconds": run.manifest.get("seconds"),
                "probe_seconds": run.manifest.get("probe_seconds"),
                "folder": str(run.folder),
            }
            for run in study.runs
        )
        states = Counter(run.status for run in study.runs)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return Summary("Runs", rows, (f"{len(rows)} runs: {counts}.",))
