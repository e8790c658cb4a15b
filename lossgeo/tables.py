"""Rows and Parquet: fixed schemas with units and meanings in the field metadata, replaced whole and atomically.

A table is rewritten as a whole at every flush. That is quadratic in principle, but a run logs thousands of rows, not
millions (20 ms for 100,000 rows), and in return a reader finds a complete file at every moment, and a killed writer
leaves the version before.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from lossgeo.errors import RunError
from lossgeo.files import write_atomically

VERSION = 1  # of the schemas; raised when a column changes its meaning or leaves

# ends the meaning of a column that weight decay would change
DECAY = "; without weight decay, unless the recipe says include_decay"

Row = dict[str, Any]
ARROW = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "floats": pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class Column:
    """One column: its type, its unit ("" where a number has none) and its meaning in a few words.

    The unit `unit` is the one that the row's own column of that name says: other operators have other values.
    """

    name: str
    type: Literal["string", "int", "float", "bool", "floats"]
    unit: str
    meaning: str


KEYS = (
    Column("run", "string", "", "id of the run: the digest of its recipe"),
    Column("replica", "int", "", "independent trial within the run, from 0"),
    Column("step", "int", "steps", "optimizer steps taken before this row was measured"),
)


class Table:
    """All rows of one kind in a run."""

    def __init__(self, path: Path, columns: tuple[Column, ...], rows: Iterable[Row] = ()) -> None:
        self.path = path
        self.columns = (*KEYS, *columns)
        self.rows: list[Row] = list(rows)
        self._changed = False

    @classmethod
    def open(cls, path: Path, columns: tuple[Column, ...]) -> Table:
        """The table at `path`, empty where there is none; columns that joined since it was written are null.

        Raises:
            RunError: the file is torn or of another schema.
        """
        if not path.exists():
            return cls(path, columns)
        there = read(path)
        table = cls(path, columns)
        names, version = set(there.column_names), (there.schema.metadata or {}).get(b"lossgeo.schema")
        known = {c.name for c in table.columns}
        if version != str(VERSION).encode() or not {c.name for c in KEYS} <= names <= known:
            raise RunError(f"{path}: has other columns than this version of lossgeo writes; train into another folder")
        table.rows = [{c.name: row.get(c.name) for c in table.columns} for row in there.to_pylist()]
        return table

    def append(self, row: Row) -> None:
        """Add a row; keys it lacks become null."""
        self.rows.append({c.name: row.get(c.name) for c in self.columns})
        self._changed = True

    def keep(self, wanted: Iterable[bool]) -> None:
        """Drop the rows that are not wanted."""
        kept = [row for row, want in zip(self.rows, wanted, strict=True) if want]
        self._changed = self._changed or len(kept) != len(self.rows)
        self.rows = kept

    def drop(self, probe: str, step: int) -> None:
        """Drop what a probe measured at a step."""
        self.keep(row.get("probe") != probe or row["step"] != step for row in self.rows)

    def flush(self) -> None:
        """Write the table if it changed since the last flush; rows stand in the order of their steps, then probes.

        Raises:
            OSError: the disk is full or read-only; the file is as it was.
        """
        if not self._changed and self.path.exists():
            return
        # stable: the rows of one measurement keep their order, whenever it was made
        self.rows.sort(key=lambda row: (row["step"], row["replica"], row.get("probe", "")))
        table = pa.Table.from_pylist(self.rows, schema=arrow_schema(self.columns))
        buffer = io.BytesIO()
        # checksums, because a disk that loses a page leaves a file whose footer is still whole
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        write_atomically(self.path, buffer.getvalue())
        self._changed = False


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema: unit and meaning of every column stand in the field's metadata."""
    fields = [pa.field(c.name, ARROW[c.type], metadata={"unit": c.unit, "meaning": c.meaning}) for c in columns]
    return pa.schema(fields, metadata={"lossgeo.schema": str(VERSION)})


def read(path: Path) -> pa.Table:
    """The table at `path`.

    Raises:
        RunError: the file cannot be read as Parquet.
    """
    try:
        # Opened once: by its path, pyarrow would open it again for the rows and could meet the version after. Without
        # threads, since a command that ends while they still start is aborted (exit code 134, seen in one of four).
        whole = pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        return whole.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"{path}: not readable as Parquet ({reason}); "
            "the command that made it, `lossgeo train` or `lossgeo probe`, makes it again"
        ) from error
