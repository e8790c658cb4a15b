"""Taking turns, and the tables that come of it."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Generic, TypeVar

T = TypeVar("T")
CELL = 45.0  # seconds after which a contestant gets no further round


@dataclass
class Cell(Generic[T]):
    """What one contestant did on one workload."""

    times: list[float] = field(default_factory=list)
    results: list[T] = field(default_factory=list)

    @property
    def time(self) -> float:
        return median(self.times)


def contest(turns: Mapping[str, Callable[[int], Callable[[], T]]], rounds: int) -> dict[str, Cell[T]]:
    """Everybody in turn, round by round; `turns` prepare a round, and what they return is timed."""
    cells: dict[str, Cell[T]] = {name: Cell() for name in turns}
    names = list(turns)
    for number in range(rounds):
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            cell = cells[name]
            if cell.times and sum(cell.times) + cell.times[-1] > CELL:
                continue
            call = turns[name](number)
            gc.collect()  # of graphs that PyHessian leaves in cycles
            begin = time.perf_counter()
            result = call()
            cell.times.append(time.perf_counter() - begin)
            cell.results.append(result)
    return cells


class Table:
    """A markdown table that grows cell by cell: contestants by workloads."""

    def __init__(self, title: str, columns: Iterable[str]) -> None:
        self.title = title
        self.columns = list(columns)
        self.rows: dict[str, dict[str, str]] = {}

    def put(self, row: str, column: str, text: str) -> None:
        self.rows.setdefault(row, {})[column] = text

    def show(self) -> None:
        print(f"\n{self.title}\n\n| | {' | '.join(self.columns)} |\n| --- |{' --- |' * len(self.columns)}")
        for name, cells in self.rows.items():
            print(f"| {name} | {' | '.join(cells.get(column, '') for column in self.columns)} |")
        sys.stdout.flush()


def digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ratio(cell: Cell[Any], ours: Cell[Any], rounds: int) -> str:
    """How many times our time it took; where it had fewer rounds than asked for, how many."""
    fewer = f" ({len(cell.times)} of {rounds} rounds)" if len(cell.times) < rounds else ""
    return ("1" if cell is ours else f"{cell.time / ours.time:.2f}x") + fewer


def peak() -> float:
    """MiB that this process has held at the most.

    Not getrusage's ru_maxrss: a process started from a large one inherits that one's peak there.
    """
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
