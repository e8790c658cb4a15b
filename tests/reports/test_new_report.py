"""A new report is one new file: nothing else is written, and the real program runs it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.program import lossgeo
from tests.support.synthetic import id_of, recipe, tables_of_a_run, write_run

MINE = '''"""How low does the training loss get?"""

from typing import final

from pydantic import Field

from lossgeo import Report, Study, Summary


@final
class Lowest(Report):
    """The lowest training loss of every run, if it is below a bound."""

    below: float = Field(default=1.0, gt=0, description="bound of the losses that count")

    def render(self, study: Study) -> Summary:
        losses = study.evaluations().groupby("run")["train_loss"].min()
        rows = tuple({"run": run.id, "lowest": float(losses[run.id])} for run in study.runs)
        return Summary("Lowest losses", tuple(row for row in rows if row["lowest"] < self.below))
'''


def test_a_report_is_one_file(tmp_path: Path) -> None:
    for number, loss in enumerate((0.1, 0.2, 3.0)):
        write_run(tmp_path / "runs", id_of(number), recipe(seed=number), tables_of_a_run(1.0, train_loss=loss))
    (tmp_path / "lowest.py").write_text(MINE)
    shown = lossgeo("report", "lowest", "runs", "--use", "lowest.py", "--format", "json", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == [{"run": id_of(0), "lowest": 0.1}, {"run": id_of(1), "lowest": 0.2}]
    shown = lossgeo("report", "lowest:below=0.15", "runs", "--use", "lowest.py", "--format", "json", cwd=tmp_path)
    assert [row["run"] for row in json.loads(shown.stdout)] == [id_of(0)]
    wrong = lossgeo("report", "lowest:below=-1", "runs", "--use", "lowest.py", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "below" in wrong.stderr
