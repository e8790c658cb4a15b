"""A summary as text, as a page and as a picture. Nothing is printed here.

Two kinds of text. For programs (tsv, csv, json, jsonl): every digit, one column a key. For readers (table, markdown,
html): X with its interval in one cell, or else its error, rounded to two significant digits of the half-width or the
error, because the digits behind those are noise, and to the 15 digits that a float64 holds for sure, however narrow an
interval is; numbers of which neither is known to four digits.
"""

from __future__ import annotations

import base64
import csv as csv_module
import html as html_module
import io
import json as json_module
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lossgeo.errors import NothingToReport, UsageError
from lossgeo.files import write_where_told
from lossgeo.reports import Summary, ends_of, error_of
from lossgeo.tables import Row

FIGURES = ("png", "svg", "pdf")
HELD = 15  # significant decimal digits that every float64 keeps (DBL_DIG)


def table(rows: Sequence[Row], width: int | None = None) -> str:
    """For a terminal of `width` columns (None: this one's). Columns with one value throughout stand in a line above.

    A row that is too wide puts its intervals on a second line; one that still is stays whole for the terminal to
    fold: no number is ever cut.
    """
    columns, cells = _readable(rows)
    same = [len(rows) > 1 and len({row[i] for row in cells}) == 1 for i in range(len(columns))]
    shown = [i for i in range(len(columns)) if not same[i]]
    words = [all(isinstance(row[column], str | None) for row in rows) for column in columns]

    def grid(between: str) -> Table:
        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        lines = [[row[i] if words[i] else row[i].replace(" [", f"{between}[") for i in shown] for row in cells]
        for place, i in enumerate(shown):
            # sentences may wrap between their words, numbers may not
            parts = [part for line in lines for part in (line[place].split() if words[i] else line[place].split("\n"))]
            justify: Literal["left", "right"] = "left" if words[i] else "right"
            grid.add_column(Text(columns[i]), justify=justify, min_width=max(map(len, [columns[i], *parts])))
        for line in lines:
            grid.add_row(*map(Text, line))
        return grid

    width = width or shutil.get_terminal_size().columns
    unbounded = Console(file=io.StringIO(), color_system=None, width=100_000)
    fitting = grid(" ")
    if Measurement.get(unbounded, unbounded.options, fitting).minimum > width:
        fitting = grid("\n")
    needed = Measurement.get(unbounded, unbounded.options, fitting).minimum
    console = Console(file=io.StringIO(), color_system=None, width=max(width, needed))
    with console.capture() as capture:
        console.print(fitting)
    shared = [f"{column} {cells[0][i]}" for i, column in enumerate(columns) if same[i]]
    above = f"in all rows: {' · '.join(shared)}\n" if shared else ""
    return above + "".join(f"{line.rstrip()}\n" for line in capture.get().strip("\n").split("\n"))


def tsv(rows: Sequence[Row]) -> str:
    """Tab-separated, for cut, sort and awk; a tab or a line break inside a value becomes a space."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join("\t".join(" ".join(_exact(value).split()) for value in line) + "\n" for line in lines)


def csv(rows: Sequence[Row]) -> str:
    """Comma-separated; a missing value is an empty field."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_exact(value) for value in row.values()] for row in rows)
    return out.getvalue()


def json(rows: Sequence[Row]) -> str:
    """A list of flat objects, one a line; a missing value is null."""
    return "[\n" + ",\n".join(_object(row) for row in rows) + "\n]\n"


def jsonl(rows: Sequence[Row]) -> str:
    """One flat object a line."""
    return "".join(f"{_object(row)}\n" for row in rows)


def markdown(rows: Sequence[Row]) -> str:
    """A pipe table, as README files want it."""
    columns, cells = _readable(rows)
    escaped = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in (columns, *cells)]
    lines = [escaped[0], ["---"] * len(columns), *escaped[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parquet(rows: Sequence[Row]) -> bytes:
    """A Parquet file; a column that holds words beside numbers, as `batch_size` may, or too large integers is text."""
    import pandas as pd  # only here, since `list` needs no tables

    frame = pd.DataFrame(list(rows), dtype=object)
    for name in frame:
        column = frame[name]
        kinds = {str if isinstance(v, str) or _too_large(v) else type(v) is bool for v in column if v is not None}
        text = str in kinds or len(kinds) > 1
        frame[name] = column.map(_exact, na_action="ignore") if text else column.infer_objects()
    return bytes(frame.to_parquet(index=False))


def _too_large(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


# what `--format` offers
FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "table": table,
    "tsv": tsv,
    "csv": csv,
    "json": json,
    "jsonl": jsonl,
    "markdown": markdown,
}
# what the suffix of a file says where no format is given
SUFFIXES = {".txt": "table", ".md": "markdown", **{f".{name}": name for name in ("tsv", "csv", "json", "jsonl")}}
PARQUET = ".parquet"


def html(summary: Summary, command: str) -> str:
    """One page that needs nothing else: title, command, figure, notes and rows.

    Everything that came from a user is escaped, and the figure is an image, in which no script runs.
    """
    columns, cells = _readable(summary.rows)
    picture = ""
    if summary.draw is not None:
        data = base64.b64encode(figure(summary, "svg")).decode()
        picture = f'<img src="data:image/svg+xml;base64,{data}" alt="{_escape(summary.title)}">'
    notes = "".join(f"<li>{_escape(note)}</li>" for note in summary.notes)
    head = "".join(f"<th>{_escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>\n" for row in cells)
    return PAGE.format(
        title=_escape(summary.title), command=_escape(command), picture=picture, notes=notes, head=head, body=body
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #262626; max-width: 76rem; margin: 3rem auto; padding: 0 1.5rem; }}
h1 {{ font-size: 1.6rem; font-weight: 600; }}
code {{ background: #f4f4f4; padding: .5rem .8rem; display: block; overflow-wrap: anywhere; }}
img {{ width: 100%; margin: 1.5rem 0; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #e6e6e6; }}
th {{ border-bottom-color: #8c8c8c; font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
<code>{command}</code>
{picture}
<ul>{notes}</ul>
<div><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
</body>
</html>
"""


def figure(summary: Summary, kind: str) -> bytes:
    """The figure as png (150 dpi), svg or pdf; the same rows give the same bytes.

    Raises:
        NothingToReport: this summary has nothing to draw.
        UsageError: another kind.
    """
    if kind not in FIGURES:
        raise UsageError(f"a figure is written as {', '.join(FIGURES)}, not {kind!r}")
    if summary.draw is None:
        raise NothingToReport(f"{summary.title}: there is nothing to draw")
    from lossgeo.reports.figures.style import saved

    return saved(summary.draw(), kind)


def figure_kind(path: Path) -> str:
    """png, svg or pdf, from the name of a file; ask before the work is done.

    Raises:
        UsageError: another suffix, or none.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FIGURES:
        raise UsageError(f"{path}: a figure ends in .{', .'.join(FIGURES)}")
    return kind


def writer(path: Path, chosen: str | None) -> Callable[[Sequence[Row]], bytes]:
    """How rows become what a file holds: as was chosen, else by its suffix; tab-separated values where it has none.

    Raises:
        UsageError: nothing was chosen, and the suffix is none of those known; ask before the work is done.
    """
    suffix = path.suffix.lower()
    if chosen is None and suffix == PARQUET:
        return parquet
    name = chosen or SUFFIXES.get(suffix) or ("" if suffix else "tsv")
    if not name:
        known = ", ".join([*SUFFIXES, PARQUET])
        raise UsageError(f"{path}: no format goes with {suffix}; end the name in {known}, or say `--format`")
    return lambda rows: FORMATS[name](rows).encode()


def save(path: Path, data: bytes) -> None:
    """What a command was asked to put into a file of the user's.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        write_where_told(path, data)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _exact(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _object(row: Row) -> str:
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
    return json_module.dumps(finite, ensure_ascii=False, allow_nan=False)


def _escape(text: str) -> str:
    return html_module.escape(text, quote=True)


def _readable(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells for readers: the ends of X's interval and its error go into the cell of X."""
    keys = list(rows[0])
    beside = {key: (*ends_of(key), error_of(key)) for key in keys}
    taken = {
        key for low, high, error in beside.values() for key in (error, *((low, high) if {low, high} <= {*keys} else ()))
    }
    columns = [key for key in keys if key not in taken]
    return columns, [[_cell(row[key], *(row.get(name) for name in beside[key])) for key in columns] for row in rows]


def _cell(value: Any, low: float | None, high: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    if low is not None and high is not None and high > low:
        decimals = _decimals(high / 2 - low / 2, max(abs(value), abs(low), abs(high)))
        return f"{_rounded(value, decimals)} [{_rounded(low, decimals)}, {_rounded(high, decimals)}]"
    if error:
        decimals = _decimals(error, max(abs(value), error))
        return f"{_rounded(value, decimals)} ± {_rounded(error, decimals)}"
    if isinstance(value, float):
        return _four_digits(value)
    return " ".join(_exact(value).split())


def _decimals(error: float, largest: float) -> int:
    """Down to the second digit of the error, and no more digits than the largest number holds."""
    return min(1 - math.floor(math.log10(max(error, math.ulp(0.0)))), HELD - 1 - math.floor(math.log10(largest)))


def _rounded(value: float, decimals: int) -> str:
    """To a number of decimals, which is negative when the tens are in doubt already."""
    value = float(round(value, decimals))
    size = abs(value) if value else 10.0**-decimals  # zero is written as its last digit would be
    if 1e-4 <= size < 1e6:
        return f"{value:.{max(decimals, 0)}f}"
    return f"{value:.{max(math.floor(math.log10(size)) + decimals, 0)}e}" if value else "0"


def _four_digits(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return _rounded(value, 3 - math.floor(math.log10(abs(value))))
