"""From one recipe to its runs: `sweep` (a grid), `zip` (axes in step) and `list` (settings one by one), multiplied.

Works on plain data, before validation: `model_copy` would skip it. Keys are dotted, `optimizer.lr` or `probes.0.top`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from lossgeo.component import Keys, Problem
from lossgeo.documents import Document, read_value

MAX_RUNS = 100_000
PARTS = ("sweep", "zip", "list")

Setting = dict[str, Any]  # dotted key -> value


def override(document: Document, sets: list[str], sweeps: list[str]) -> Document:
    """The document with `--set key=value` and `--sweep key=a,b,c` applied; messages then name the option.

    Raises:
        RecipeError: not of the form key=value, or a value that is not YAML.
    """
    plain = {
        key: dict(value) if key in PARTS[:2] and isinstance(value, dict) else value
        for key, value in document.plain.items()
    }
    places = dict(document.places)
    problems: list[Problem] = []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem((), f"--set {text}: write --set key=value"))
            continue
        places |= _mark(key, f"--set {text}")
        message = put(plain, key, read_value(value, f"--set {text}"))
        if message:
            problems.append(Problem(_keys(key), message))
        for part in PARTS[:2]:
            if isinstance(plain.get(part), dict):
                plain[part].pop(key, None)  # what the command line fixes is not swept any more
    for text in sweeps:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem((), f"--sweep {text}: write --sweep key=a,b,c"))
            continue
        option = f"--sweep {text}"
        axis = read_value(value if value.lstrip().startswith(("{", "[")) else f"[{value}]", option)
        grid = plain.setdefault("sweep", {})
        if isinstance(grid, dict):
            grid[key] = axis
        places |= {("sweep", key): option} | _mark(key, option)
    changed = Document(plain, document.name, places)
    if problems:
        raise changed.error(problems)
    return changed


def expand(document: Document) -> Iterator[tuple[Document, Setting]]:
    """Every combination as a document without its sweep, and the setting that made it.

    Raises:
        RecipeError: an axis that is no list, range or log; axes of unequal length in `zip`; a key that is swept twice.
    """
    problems: list[Problem] = []
    grid = _axes(document, "sweep", problems)
    zipped = _axes(document, "zip", problems)
    listed = _listed(document, problems)
    lengths = {key: len(values) for key, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key}: {n}" for key, n in lengths.items())
        problems.append(Problem(("zip",), f"axes in step need equal lengths, not {shown}"))
    named = [*grid, *zipped, *{key for setting in listed for key in setting}]
    for key in {key for key in named if named.count(key) > 1}:
        problems.append(Problem(("sweep", key), "is swept in two places; keep one"))
    count = math.prod(map(len, grid.values())) * (max(lengths.values(), default=1)) * max(len(listed), 1)
    if count > MAX_RUNS:
        problems.append(Problem(("sweep",), f"makes {count} runs; {MAX_RUNS} are the most one recipe may make"))
    if problems:
        raise document.error(problems)

    rows = [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)] if zipped else [{}]
    for cell in itertools.product(*grid.values()):
        for row in rows:
            for setting in listed or [{}]:
                yield _resolved(document, dict(zip(grid, cell, strict=True)) | row | setting)


def _resolved(document: Document, setting: Setting) -> tuple[Document, Setting]:
    plain = {key: value for key, value in document.plain.items() if key not in PARTS}
    places = dict(document.places) if setting else document.places
    problems = []
    for key, value in setting.items():
        message = put(plain, key, value)
        if message:
            problems.append(Problem(_keys(key), message))
        where = next((p for part in PARTS if (p := document.places.get((part, key)))), None)
        where = where or document.place(("list",))
        places = {k: p for k, p in places.items() if k[: len(_keys(key))] != _keys(key)} | {_keys(key): where}
    resolved = Document(plain, document.name, places)
    if problems:
        raise resolved.error(problems)
    return resolved, setting


def _axes(document: Document, part: str, problems: list[Problem]) -> dict[str, tuple[Any, ...]]:
    block = document.plain.get(part)
    if block is None:
        return {}
    if not isinstance(block, dict):
        problems.append(Problem((part,), "should be a mapping of keys to lists, such as `batch_size: [16, 64]`"))
        return {}
    axes = {}
    for key, spec in block.items():
        values = _axis(spec)
        if isinstance(values, str):
            problems.append(Problem((part, key), values))
        else:
            axes[key] = values
    return axes


def _axis(spec: Any) -> tuple[Any, ...] | str:
    """The values of an axis, or what is wrong with it."""
    match spec:
        case tuple() if spec:
            return spec
        case {"range": int() | tuple() as bounds, **rest} if not rest:
            bounds = bounds if isinstance(bounds, tuple) else (bounds,)
            if 1 <= len(bounds) <= 3 and all(type(b) is int for b in bounds) and 0 not in bounds[2:]:
                values = range(*bounds)
                # the length is known without building anything, so that `range: 1e15` costs nothing
                if 0 < _length(values) <= MAX_RUNS:
                    return tuple(values)
        case {"log": (int() | float() as first, int() | float() as last, int() as n), **rest} if not rest:
            if 0 < first < math.inf and 0 < last < math.inf and 2 <= n <= MAX_RUNS:
                ratio = math.log(last) - math.log(first)
                inner = [float(f"{first * math.exp(ratio * i / (n - 1)):.6g}") for i in range(1, n - 1)]
                return (first, *inner, last)
    return (
        "should be a list of values, {range: 5}, {range: [first, end, step]} or {log: [first, last, count]}, "
        f"with between 1 and {MAX_RUNS} values"
    )


def _length(values: range) -> int:
    return max(0, -(-(values.stop - values.start) // values.step))


def _listed(document: Document, problems: list[Problem]) -> list[Setting]:
    block = document.plain.get("list")
    if block is None:
        return []
    if not isinstance(block, tuple) or not block or not all(isinstance(s, dict) and s for s in block):
        problems.append(
            Problem(("list",), "should be a list of settings, such as `- {batch_size: 16, optimizer.lr: 0.1}`")
        )
        return []
    return list(block)


def put(plain: dict[str, Any], dotted: str, value: Any) -> str | None:
    """Set a dotted key in plain data, in place; returns what is wrong, if anything.

    A component given by its bare name becomes a mapping when one of its keys is set: `optimizer: sgd` and
    `optimizer.lr=0.1` make `{name: sgd, lr: 0.1}`.
    """
    keys = dotted.split(".")
    here: Any = plain
    way: list[Any] = []  # the containers passed; rebuilt on the way back, since aliases may share them
    for i, key in enumerate(keys):
        if isinstance(here, str):
            here = {"name": here}
        elif here is None:
            here = {}
        passed = ".".join(keys[:i])
        if isinstance(here, tuple) and not (key.isdecimal() and int(key) < len(here)):
            return f"{passed} is a list of {len(here)}; name an item by its number, from 0"
        if not isinstance(here, dict | tuple):
            return f"{passed} is {here!r} and has no keys"
        way.append(here)
        here = here[int(key)] if isinstance(here, tuple) else here.get(key)
    made = value
    for container, key in zip(reversed(way), reversed(keys), strict=True):
        if isinstance(container, tuple):
            made = (*container[: int(key)], made, *container[int(key) + 1 :])
        else:
            made = {**container, key: made}
    plain.update(made)
    return None


def _keys(dotted: str) -> Keys:
    return tuple(int(k) if k.isdecimal() else k for k in dotted.split("."))


def _mark(dotted: str, option: str) -> dict[Keys, str]:
    return {_keys(dotted): option}
