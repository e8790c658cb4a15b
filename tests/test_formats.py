"""Rows as text, a summary as a page, figures as files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from pyarrow import parquet

from lossgeo import formats
from lossgeo.errors import NothingToReport, UsageError
from lossgeo.reports import Summary

ROWS = (
    {"size": 16, "x": 41.72839, "x_low": 41.12, "x_high": 42.34, "note": None, "ok": True},
    {"size": 64, "x": 1 / 3, "x_low": None, "x_high": None, "note": 'a "b",\tc\nd | [e] <i>', "ok": False},
)


def drawn() -> Figure:
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    return figure


@pytest.mark.parametrize(
    ("row", "cell"),
    [
        ({"x": 41.72839, "x_low": 41.42, "x_high": 42.02}, "41.73 [41.42, 42.02]"),
        ({"x": 41.72839, "x_low": 38.0, "x_high": 45.0}, "41.7 [38.0, 45.0]"),
        ({"x": 41728.39, "x_low": 38000.0, "x_high": 45000.0}, "41700 [38000, 45000]"),
        ({"x": 4.172e-7, "x_low": 3.8e-7, "x_high": 4.5e-7}, "4.17e-07 [3.80e-07, 4.50e-07]"),
        ({"x": 0.0003, "x_low": -0.1, "x_high": 0.1}, "0.00 [-0.10, 0.10]"),
        (
            {"x": 5.0851828220183526, "x_low": 5.08518282201835, "x_high": 5.085182822018353},
            "5.08518282201835 [5.08518282201835, 5.08518282201835]",
        ),
        (
            {"x": 1e-3, "x_low": 1e-3, "x_high": 1e-3 + 2e-19},
            "0.00100000000000000 [0.00100000000000000, 0.00100000000000000]",
        ),
        ({"x": 0.0, "x_low": -1e-20, "x_high": 1e-20}, "0 [-1.0e-20, 1.0e-20]"),
        ({"x": 5e-324, "x_low": 0.0, "x_high": 5e-324}, "4.9e-324 [0, 4.9e-324]"),
        ({"x": 1.0, "x_low": -1.7e308, "x_high": 1.7e308}, "0 [-1.7e+308, 1.7e+308]"),
        ({"median_steps": 1234.5, "low": 1100.0, "high": 1420.0}, "1230 [1100, 1420]"),
        ({"value": 1.31852, "low": 1.21, "high": 1.44}, "1.32 [1.21, 1.44]"),
        ({"x": 15.64355, "x_error": 9.4756}, "15.6 ± 9.5"),
        ({"x": 3.522168, "x_low": None, "x_high": None, "x_error": 0.0}, "3.522"),
        ({"x": 3.522168, "x_low": 3.4, "x_high": 3.6, "x_error": 1e-6}, "3.52 [3.40, 3.60]"),
        ({"x": None, "x_error": 0.1}, "-"),
        ({"x": 2.0, "x_low": 2.0, "x_high": 2.0}, "2.000"),
        ({"x": 2.0, "x_low": None, "x_high": None}, "2.000"),
        ({"x": 123456.7}, "123500"),
        ({"x": 1.23456e9}, "1.235e+09"),
        ({"x": 0.0}, "0"),
        ({"x": 20000}, "20000"),
        ({"x": None}, "-"),
    ],
)
def test_digits_are_those_the_interval_supports(row: dict[str, object], cell: str) -> None:
    lines = formats.markdown([row]).splitlines()
    assert lines[2] == f"| {cell} |"


def test_no_interval_however_narrow_brings_out_more_digits_than_a_float_holds() -> None:
    draws = np.random.default_rng(0)
    for value in (draws.standard_normal(300) * 10.0 ** draws.integers(-12, 12, 300)).tolist():
        for width in 10.0 ** -np.arange(0.0, 30.0, 3.0):
            low, high = value - width * abs(value), value + width * abs(value)
            cell = formats.markdown([{"x": value, "x_low": low, "x_high": high}]).splitlines()[2].strip("| ")
            for number in re.findall(r"[-+.e\d]+", cell):
                digits = number.partition("e")[0].replace(".", "").strip("-+").lstrip("0")
                assert len(digits) <= 15, cell


def test_programs_get_every_digit_and_one_column_a_key() -> None:
    assert list(csv.DictReader(io.StringIO(formats.csv(ROWS))))[1]["x"] == repr(1 / 3)
    lines = formats.tsv(ROWS).splitlines()
    assert len(lines) == 3
    assert all(line.count("\t") == 5 for line in lines)
    assert lines[1].split("\t") == ["16", "41.72839", "41.12", "42.34", "", "true"]
    assert json.loads(formats.json(ROWS)) == list(ROWS)
    assert [json.loads(line) for line in formats.jsonl(ROWS).splitlines()] == list(ROWS)


def test_json_has_no_numbers_that_json_does_not_have() -> None:
    rows = [{"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.0}]
    assert json.loads(formats.json(rows)) == [{"a": None, "b": None, "c": None, "d": 1.0}]


def test_a_table_is_never_cut() -> None:
    text = formats.table(ROWS, width=20)
    for word in ("41.73", "[41.12,", "42.34]", "0.3333", "[e]", "<i>"):
        assert word in text
    assert "…" not in text


def test_a_table_breaks_intervals_before_it_grows_too_wide() -> None:
    rows = [{"a": 1.5 + i, "a_low": 1.0 + i, "a_high": 2.0 + i} for i in range(2)]
    assert "[1.00, 2.00]" in formats.table(rows, width=80).splitlines()[3]
    assert max(map(len, formats.table(rows, width=16).splitlines())) <= 16


def test_columns_without_variation_stand_above_the_table() -> None:
    rows = [{"a": i, "b": 7, "c": None} for i in range(3)]
    first = formats.table(rows, width=80).splitlines()[0]
    assert first == "in all rows: b 7 · c -"
    assert "b" in formats.table(rows[:1], width=80).splitlines()[1]  # a single row is shown whole


def test_every_format_takes_every_row() -> None:
    for name, text in formats.FORMATS.items():
        assert text(ROWS).endswith("\n"), name
        assert "\x1b" not in text(ROWS), name


def test_a_page_is_escaped_and_needs_nothing_else() -> None:
    summary = Summary("<b>title", ROWS, ("a note & more",), drawn)
    page = formats.html(summary, 'lossgeo report x --out "<script>"')
    for text in ("&lt;b&gt;title", "a note &amp; more", "&lt;script&gt;", "41.73 [41.12, 42.34]", "data:image/svg+xml"):
        assert text in page
    for text in ("<script", "http", "<i>", "<b>"):
        assert text not in page
    assert "<img" not in formats.html(Summary("t", ROWS), "c")


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_the_same_bytes_every_time(kind: str, start: bytes) -> None:
    summary = Summary("t", ROWS, draw=drawn)
    first = formats.figure(summary, kind)
    assert first.startswith(start)
    assert first == formats.figure(summary, kind)


def test_wrong_figures_are_refused_before_any_work(tmp_path: Path) -> None:
    assert formats.figure_kind(Path("a/b.PNG")) == "png"
    for name in ("a.jpg", "a"):
        with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
            formats.figure_kind(Path(name))
    with pytest.raises(NothingToReport, match="nothing to draw"):
        formats.figure(Summary("t", ROWS), "png")


def test_a_link_and_a_mode_stay_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    real, link, pipe = (tmp_path / name for name in ("real.csv", "link.csv", "pipe"))
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    formats.save(link, b"new")
    assert link.is_symlink()
    assert (real.read_bytes(), real.stat().st_mode & 0o777) == (b"new", 0o640)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    formats.save(pipe, b"rows")
    assert os.read(reader, 10) == b"rows"
    os.close(reader)
    assert pipe.is_fifo()
    formats.save(Path("/dev/null"), b"rows")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UsageError, match=r"cannot be written \(Is a directory\)"):
        formats.save(tmp_path, b"rows")
    with pytest.raises(UsageError, match=r"\.: cannot be written \(Is a directory\)"):
        formats.save(Path("."), b"rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "pipe", "real.csv"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing/a\.png: cannot be written"):
        formats.save(tmp_path / "missing" / "a.png", b"")
    formats.save(tmp_path / "a.txt", b"x")
    assert (tmp_path / "a.txt").read_bytes() == b"x"


MIXED = (
    {"batch_size": 8, "x": 0.1, "used": True, "none": None},
    {"batch_size": "full", "x": None, "used": None, "none": None},
)


@pytest.mark.parametrize("name", ["t.txt", "t.md", "t.tsv", "t.csv", "t.json", "t.jsonl", "T.JSON"])
def test_the_suffix_of_a_file_says_its_format_and_a_chosen_format_goes_before(name: str) -> None:
    named = {".txt": "table", ".md": "markdown"}
    path = Path(name)
    expected = named.get(path.suffix, path.suffix.lower().removeprefix("."))
    assert formats.writer(path, None)(MIXED) == formats.FORMATS[expected](MIXED).encode()
    assert formats.writer(path, "csv")(MIXED) == formats.csv(MIXED).encode()
    assert formats.writer(Path("t"), None)(MIXED) == formats.tsv(MIXED).encode()


def test_a_suffix_without_a_format_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"t\.xlsx: no format goes with \.xlsx; end the name in \.txt, .*\.parquet, or"
    ):
        formats.writer(Path("t.xlsx"), None)
    assert formats.writer(Path("t.xlsx"), "csv")(MIXED) == formats.csv(MIXED).encode()


def test_parquet_keeps_numbers_truths_and_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(formats.writer(tmp_path / "t.parquet", None)(MIXED))
    read = parquet.read_table(tmp_path / "t.parquet")
    assert read.to_pylist() == [MIXED[0] | {"batch_size": "8"}, MIXED[1]]  # a column with a word in it is text
    assert [str(kind) for kind in read.schema.types[1:3]] == ["double", "bool"]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, 0.5, None], [1.0, 0.5, None]),
        ([1, None, 2], [1, None, 2]),
        ([10**20, 1, None], ["100000000000000000000", "1", None]),
        ([10**20, None, None], ["100000000000000000000", None, None]),
        ([True, 1.0, None], ["true", "1.0", None]),
    ],
)
def test_parquet_takes_whatever_a_sweep_may_hold(values: list[Any], kept: list[Any]) -> None:
    found = formats.parquet([{"x": value} for value in values])
    assert parquet.read_table(io.BytesIO(found))["x"].to_pylist() == kept
