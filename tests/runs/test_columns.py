"""The tables of a run: `lossgeo list tables` names those that a run writes, with their columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lossgeo import formats
from lossgeo.components.catalog import catalog
from lossgeo.components.finding import used_files
from lossgeo.probes import COMMON, Probe
from lossgeo.runs.columns import listed, tables
from lossgeo.tables import ARROW, KEYS
from tests.support.program import lossgeo, trained

NORM = '''"""The norm of the parameters."""

from typing import final

from lossgeo import Column, Measurement, Probe


@final
class Norm(Probe):
    """|theta|."""

    columns = (Column("norm", "float", "parameter", "Euclidean norm of theta"),)

    def measure(self, landscape, point, memory, generator):
        return Measurement([{"norm": float(point.theta.norm())}], memory)
'''


def test_every_column_has_a_row_with_a_type_and_a_meaning() -> None:
    rows = listed()
    assert {(row["table"], row["column"]) for row in rows} == {(t, c.name) for t, cs in tables().items() for c in cs}
    assert len(rows) == sum(map(len, tables().values())) >= 150
    assert all(row["type"] in ARROW and row["meaning"] for row in rows)
    assert {tuple(row) for row in rows} == {("table", "column", "type", "unit", "meaning")}


def test_every_probe_has_a_table_and_every_table_the_keys() -> None:
    found = tables()
    assert list(found)[:3] == ["steps", "evaluations", "escapes"]
    for name, columns in found.items():
        assert columns[: len(KEYS)] == KEYS, name
        assert len({column.name for column in columns}) == len(columns), name
    probes = list(found.values())[3:]
    assert {probe.table() for probe in catalog(Probe).values()} == {columns[len(KEYS) :] for columns in probes}
    assert all(columns[len(KEYS) :][: len(COMMON)] == COMMON for columns in probes)


def test_a_run_writes_the_tables_that_are_listed(tmp_path: Path) -> None:
    surface = {"model": None, "dataset": None, "loss": None, "surface": {"name": "octopus", "dimension": 2}}
    start = {"start": {"at": "saddle", "offset": 1e-3}, "escape": {"distance": 0.1}, "replicas": 2}
    probes = [{"name": name, "at": ["first"]} for name in ("critical_points", "density", "eigenvalues", "trace")]
    run = trained(tmp_path, **surface, **start, optimizer={"name": "sgd", "lr": 0.01}, batch_size="full", probes=probes)
    files = {file.stem: pq.read_schema(file) for file in run.folder.glob("*.parquet")}
    assert files.keys() == {"steps", "evaluations", "escapes", *(probe["name"] for probe in probes)}
    for name, fields in files.items():
        written = [(f.name, f.type, f.metadata[b"unit"].decode(), f.metadata[b"meaning"].decode()) for f in fields]
        said = [row for row in listed() if row["table"] == name]
        assert written == [(row["column"], ARROW[row["type"]], row["unit"], row["meaning"]) for row in said], name


def test_a_probe_of_the_users_own_is_listed(tmp_path: Path) -> None:
    (tmp_path / "norm.py").write_text(NORM)
    assert [column.name for column in tables(used_files([tmp_path]))["norm"]] == [
        *("run", "replica", "step", "probe", "seconds", "failure", "norm")
    ]


@pytest.mark.parametrize("format_", formats.FORMATS)
def test_they_print_in_every_format(format_: str) -> None:
    text = formats.FORMATS[format_](listed())
    assert "escapes" in text
    assert "lambda_min" in text


def test_the_program_lists_them(tmp_path: Path) -> None:
    done = lossgeo("list", "tables", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == listed()
    done = lossgeo("list", "table", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("and tables")
