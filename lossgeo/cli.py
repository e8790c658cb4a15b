"""The command line: parse, one library call, print (display.py).

Standard output carries data alone: run folders, or a report's rows. Everything else goes to standard error. Heavy
modules are imported inside the commands that need them, so that `--help` answers at once and `report` needs no torch.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from lossgeo import __version__
from lossgeo.display import display, emit, say
from lossgeo.errors import LossgeoError, Stopped, UsageError
from lossgeo.runs.interrupt import Interrupt

if TYPE_CHECKING:
    from lossgeo.recipes.resolving import Resolved
    from lossgeo.runs.executors import Outcome
    from lossgeo.runs.probing import At
    from lossgeo.runs.run import Run
    from lossgeo.runs.training import Progress

app = typer.Typer(
    name="lossgeo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the boxes would cost half of the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)

Format = Literal["table", "tsv", "csv", "json", "jsonl", "markdown"]
RunPaths = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run folders, folders above them, or - (one a line).")
]
Use = Annotated[list[Path], typer.Option("--use", metavar="PATH", help="A file or folder of your own components.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but failures.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or auto; else what the recipe says.")]


def _version(wanted: bool) -> None:
    if wanted:
        emit([__version__])
        raise typer.Exit


@app.callback()
def lossgeo(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A laboratory for the geometry of loss landscapes: train, probe, report."""


@app.command()
def train(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE...]", help="Files, names of shipped recipes, or - for stdin.")
    ] = None,
    sets: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value; repeatable.")] = [],
    sweeps: Annotated[
        list[str], typer.Option("--sweep", metavar="KEY=A,B,C", help="Add an axis to the grid; repeatable.")
    ] = [],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where runs are kept.")] = Path("outputs"),
    jobs: Annotated[int | None, typer.Option(min=1, max=1024, metavar="N", help="Worker processes.")] = None,
    executor: Annotated[str, typer.Option(metavar="NAME[:KEY=VALUE,...]", help="How runs are spread.")] = "local",
    device: Device = None,
    use: Use = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs as JSON lines; train nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train the runs of a recipe and print their folders. The same command again goes on where it stopped."""
    from lossgeo.recipes.documents import MAX_BYTES, read_named

    stdin = sys.stdin.buffer.read(MAX_BYTES + 1) if "-" in (recipes or ()) else None
    # listening before torch is loaded, so that a batch system that stops the command early is told to try again
    with Interrupt().listening(signal.SIGINT, signal.SIGTERM) as interrupt:
        from lossgeo.components.finding import used_files
        from lossgeo.recipes.resolving import read_recipe, resolve
        from lossgeo.runs.executors import Executor
        from lossgeo.runs.run import Run, left_behind

        search = used_files(use)
        if device is not None:
            sets = [*sets, f"device={device}"]
        named = read_named(executor, "--executor")
        if jobs is not None:
            named = {**(named if isinstance(named, dict) else {"name": named}), "jobs": jobs}
        spread = _component(Executor, named, "--executor", search)
        found = [
            r for name in recipes or ["quickstart"] for r in resolve(read_recipe(name, stdin), sets, sweeps, search)
        ]
        runs = list({run.id: run for run in (Run.under(out, resolved) for resolved in found)}.values())
        if dry_run:
            emit(_planned(run) for run in runs)
            return
        if not quiet:
            for sentence in left_behind(out, runs):
                say(f"note: {sentence}")
        with closing(spread.train(runs, interrupt)) as news:
            _follow(((run.folder, item) for run, item in news), len(runs), quiet, interrupt)


@app.command()
def probe(
    runs: RunPaths,
    probes: Annotated[
        list[str], typer.Option("--probe", metavar="NAME[:KEY=VALUE,...]", help="What to measure; repeatable.")
    ],
    at: Annotated[str, typer.Option(metavar="STEPS", help="last, first, all, or steps with commas.")] = "last",
    device: Device = None,
    use: Use = [],
    quiet: Quiet = False,
) -> None:
    """Measure on the checkpoints of runs, as a probe in the recipe would have, and print the runs' folders."""
    paths = _paths(runs)
    with Interrupt().listening(signal.SIGINT, signal.SIGTERM) as interrupt:
        from lossgeo.components.finding import used_files
        from lossgeo.folders import run_folders
        from lossgeo.probes import Probe
        from lossgeo.recipes.documents import read_named
        from lossgeo.runs.executors import attempt
        from lossgeo.runs.probing import probe as measure

        search = used_files(use)
        wanted = [_component(Probe, read_named(text, f"--probe {text}"), f"--probe {text}", search) for text in probes]
        folders, steps = run_folders(paths), _steps(at)
        works = ((f, attempt(measure(f, wanted, steps, interrupt, device))) for f in folders if not interrupt)
        _follow(((folder, item) for folder, work in works for item in work), len(folders), quiet, interrupt)


@app.command()
def report(
    kind: Annotated[
        str, typer.Argument(metavar="KIND[:KEY=VALUE,...]", help="Which report; see lossgeo list reports.")
    ],
    runs: RunPaths,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Default: a table on a terminal, tab-separated values otherwise.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows there, as --format or the suffix says.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the figure: .png, .svg or .pdf.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page with everything.")] = None,
    use: Use = [],
    quiet: Quiet = False,
) -> None:
    """Turn the tables of runs into an answer: rows, and on request a figure or a page."""
    from lossgeo import formats
    from lossgeo.components.finding import used_files
    from lossgeo.recipes.documents import read_named
    from lossgeo.reports import Report
    from lossgeo.reports.analysis.study import Study

    chosen = _component(Report, read_named(kind, "KIND"), "KIND", used_files(use))
    suffix = formats.figure_kind(figure) if figure is not None else None
    written = formats.writer(out, format_) if out is not None else None
    summary = chosen.render(Study.open(_paths(runs))).required()
    if figure is not None and suffix is not None:
        formats.save(figure, formats.figure(summary, suffix))
    if html is not None:
        formats.save(html, formats.html(summary, _command()).encode())
    if out is not None and written is not None:
        formats.save(out, written(summary.rows))
    else:
        emit([formats.FORMATS[format_ or _default_format()](summary.rows).rstrip("\n")])
    if not quiet:
        for note in summary.notes:
            say(f"note: {note}")


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="models, datasets, optimizers, probes, ...; or tables.")
    ] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="As for report.")] = None,
    use: Use = [],
) -> None:
    """The components that a recipe can name, with their keys; or the tables of runs, with their columns."""
    from lossgeo import formats
    from lossgeo.components.catalog import interfaces, keys
    from lossgeo.components.finding import used_files
    from lossgeo.runs.columns import listed

    known, search = interfaces(), used_files(use)
    if kind == "tables":
        rows = listed(search)
    elif kind is None or kind in known:
        rows = keys([known[kind]] if kind else list(known.values()), search)
    else:
        raise UsageError(f"no kind of component is called {kind!r}; there are {', '.join(known)}, and tables")
    emit([formats.FORMATS[format_ or _default_format()](rows).rstrip("\n")])


@app.command()
def schema() -> None:
    """The JSON Schema of a recipe, for editors that complete and check YAML."""
    import json

    from lossgeo.recipes.schema import schema as made

    emit([json.dumps(made(), indent=1)])


def main() -> NoReturn:
    """The program: what went wrong becomes one message and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell (`2>&-`); print would fall back on the other one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
    try:
        app(standalone_mode=True)
    except LossgeoError as error:
        for line in str(error).splitlines():
            say(f"error: {line}")
        sys.exit(error.exit_code)
    except OSError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    raise AssertionError("typer exits by itself")


def _follow(news: Iterator[tuple[Path, Progress | Outcome]], total: int, quiet: bool, interrupt: Interrupt) -> None:
    """Show the way of `total` runs, print the folder of each that ends well, and exit as the others ask for."""
    from lossgeo.runs.executors import Outcome

    ended, failures = 0, [0]
    with display(total, quiet) as shown:
        for folder, item in news:
            if not isinstance(item, Outcome):
                shown.show(folder, item)
                continue
            shown.over(folder)
            if item.failure is None:
                ended += 1
                shown.aside(partial(emit, [str(folder)]))
            elif item.stopped:
                shown.aside(partial(say, f"{folder}: {item.failure}"))
            else:
                shown.aside(partial(say, f"error: {folder}: {item.failure}"))
                failures.append(item.exit_code)
    if interrupt and ended < total:
        raise typer.Exit(Stopped(interrupt.signum).exit_code)
    if max(failures):
        raise typer.Exit(max(failures))


# --- in and out ------------------------------------------------------------------------------------------------------


def _component(interface: Any, plain: Any, option: str, search: tuple[Path, ...]) -> Any:
    from lossgeo.components.parsing import parse
    from lossgeo.recipes.documents import Document

    value, problems = parse(interface, plain, search)
    if problems:
        raise Document({}, option).error(problems)
    return value


def _paths(runs: list[str]) -> list[Path]:
    given = [line for run in runs for line in (sys.stdin.read().splitlines() if run == "-" else [run])]
    return [Path(line) for line in given if line.strip()]


def _steps(at: str) -> At:
    if at in ("first", "last", "all"):
        return at  # type: ignore[return-value]  # mypy does not narrow a str to a Literal
    try:
        return [int(step) for step in at.split(",")]
    except ValueError as error:
        raise UsageError(f"--at {at}: write last, first, all, or steps such as 0,500,1000") from error


def _default_format() -> Format:
    return "table" if sys.stdout.isatty() else "tsv"


def _command() -> str:
    return shlex.join(["lossgeo", *sys.argv[1:]])


def _planned(run: Run) -> str:
    import json

    resolved: Resolved = run.resolved
    return json.dumps({"run": run.id, "folder": str(run.folder), "swept": resolved.swept, "recipe": resolved.plain})
