"""Rows and Parquet: schemas that explain themselves, whole files at every moment."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lossgeo import tables
from lossgeo.errors import RunError
from lossgeo.files import remove_parts, set_aside, write_atomically
from lossgeo.tables import Column, Table

COLUMNS = (
    Column("probe", "string", "", "what measured it"),
    Column("value", "float", "loss", "a number"),
    Column("count", "int", "examples", "a count"),
    Column("flag", "bool", "", "yes or no"),
)


def row(step: int, value: float | None = 1.0, probe: str = "a") -> tables.Row:
    return {"run": "r", "replica": 0, "step": step, "probe": probe, "value": value, "count": 3, "flag": True}


def test_schema_explains_itself_and_is_kept_on_disk(tmp_path: Path) -> None:
    table = Table.open(tmp_path / "t.parquet", COLUMNS)
    table.append(row(0))
    table.flush()
    file = pq.ParquetFile(tmp_path / "t.parquet")
    schema = file.schema_arrow
    assert schema.metadata[b"lossgeo.schema"] == str(tables.VERSION).encode()
    assert schema.names == ["run", "replica", "step", "probe", "value", "count", "flag"]
    assert schema.field("value").metadata == {b"unit": b"loss", b"meaning": b"a number"}
    assert [str(schema.field(name).type) for name in ("probe", "value", "count", "flag")] == [
        "string",
        "double",
        "int64",
        "bool",
    ]
    assert {file.metadata.row_group(0).column(i).compression for i in range(7)} == {"ZSTD"}


def test_an_empty_table_is_a_readable_file_with_its_schema(tmp_path: Path) -> None:
    Table.open(tmp_path / "t.parquet", COLUMNS).flush()
    assert tables.read(tmp_path / "t.parquet").num_rows == 0
    assert tables.read(tmp_path / "t.parquet").schema.field("count").metadata[b"unit"] == b"examples"


def test_rows_come_back_as_they_were_and_missing_keys_are_null(tmp_path: Path) -> None:
    path = tmp_path / "lr=0.1,seed=0-12345678" / "t.parquet"  # pyarrow could take the folder for a partition
    path.parent.mkdir()
    table = Table.open(path, COLUMNS)
    values = [0.1, math.inf, -math.inf, 1e-320, 2.0**-1074, 1.7976931348623157e308, -0.0, None]
    for step, value in enumerate(values):
        table.append(row(step, value))
    table.append(row(99, math.nan))
    table.append({"run": "r", "replica": 0, "step": 100})
    table.flush()
    again = Table.open(path, COLUMNS)
    assert [repr(r["value"]) for r in again.rows[:8]] == [repr(v) for v in values]
    assert math.isnan(again.rows[8]["value"])
    assert again.rows[9] == {"run": "r", "replica": 0, "step": 100} | dict.fromkeys(("probe", "value", "count", "flag"))


def test_rows_stand_by_step_then_probe_however_they_came(tmp_path: Path) -> None:
    table = Table.open(tmp_path / "t.parquet", COLUMNS)
    for step, probe, value in [(5, "b", 1.0), (5, "b", 0.0), (0, "b", 2.0), (5, "a", 9.0), (0, "a", 3.0)]:
        table.append(row(step, value, probe))
    table.flush()
    stored = Table.open(tmp_path / "t.parquet", COLUMNS).rows
    assert [(r["step"], r["probe"], r["value"]) for r in stored] == [
        (0, "a", 3.0),
        (0, "b", 2.0),
        (5, "a", 9.0),
        (5, "b", 1.0),  # the rows of one measurement keep their order
        (5, "b", 0.0),
    ]
    table.drop("b", 5)
    table.flush()
    assert [(r["step"], r["probe"]) for r in Table.open(tmp_path / "t.parquet", COLUMNS).rows] == [
        (0, "a"),
        (0, "b"),
        (5, "a"),
    ]


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "footer alone", "a flipped byte", "a folder"])
def test_a_torn_file_is_named_with_the_way_out(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    table = Table.open(path, COLUMNS)
    for step in range(1000):
        table.append(row(step, step**0.5))
    table.flush()
    data = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(4)
    middle = column.dictionary_page_offset or column.data_page_offset
    middle += column.total_compressed_size // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    torn = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "garbage": os.urandom(500),
        "footer alone": data[-600:],
        "a flipped byte": flipped,
    }
    path.unlink()
    if damage == "a folder":
        path.mkdir()
        (path / "junk").write_bytes(b"x")
    else:
        path.write_bytes(torn[damage])
    with pytest.raises(RunError, match=r"t\.parquet: not readable as Parquet .*`lossgeo train`.*again") as caught:
        tables.read(path)
    assert "\n" not in str(caught.value)


def test_a_table_with_columns_that_are_gone_is_refused_even_without_rows(tmp_path: Path) -> None:
    Table.open(tmp_path / "t.parquet", COLUMNS).flush()
    with pytest.raises(RunError, match="other columns than this version"):
        Table.open(tmp_path / "t.parquet", COLUMNS[:2])


def test_a_table_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Table.open(tmp_path / "t.parquet", COLUMNS).flush()
    monkeypatch.setattr(tables, "VERSION", tables.VERSION + 1)
    with pytest.raises(RunError, match="other columns than this version"):
        Table.open(tmp_path / "t.parquet", COLUMNS)


def test_columns_that_joined_since_a_table_was_written_are_null(tmp_path: Path) -> None:
    old = Table.open(tmp_path / "t.parquet", COLUMNS[:3])
    old.append(row(0))
    old.flush()
    table = Table.open(tmp_path / "t.parquet", COLUMNS)
    table.append(row(10))
    table.flush()
    assert [there["flag"] for there in tables.read(tmp_path / "t.parquet").to_pylist()] == [None, True]


def test_an_unchanged_table_is_not_written_again(tmp_path: Path) -> None:
    table = Table.open(tmp_path / "t.parquet", COLUMNS)
    table.append(row(0))
    table.flush()
    before = (tmp_path / "t.parquet").stat().st_ino
    table.flush()
    table.keep(True for _ in table.rows)
    table.flush()
    Table.open(tmp_path / "t.parquet", COLUMNS).flush()
    assert (tmp_path / "t.parquet").stat().st_ino == before


def _grow(path: Path) -> None:
    table = Table.open(path, COLUMNS)
    for step in range(300):
        table.append(row(step))
        table.flush()


def test_a_reader_in_another_process_always_finds_a_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    Table.open(path, COLUMNS).flush()
    writer = multiprocessing.get_context("fork").Process(target=_grow, args=(path,))
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(tables.read(path).num_rows)
    writer.join()
    assert writer.exitcode == 0
    assert tables.read(path).num_rows == 300
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "the reader saw the table grow"


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/f'"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".t.parquet.123.part", ".hidden", "t.part", "t.parquet"):
        (tmp_path / name).write_bytes(b"x")
    remove_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "t.parquet", "t.part"]


def test_setting_aside_never_overwrites(tmp_path: Path) -> None:
    names = []
    for text in ("one", "two", "three"):
        (tmp_path / "t.parquet").write_text(text)
        names.append(set_aside(tmp_path / "t.parquet", "torn").name)
    assert names == ["t.parquet.torn", "t.parquet.torn2", "t.parquet.torn3"]
    assert [(tmp_path / name).read_text() for name in names] == ["one", "two", "three"]
