"""From one recipe to its runs: `sweep` (a grid), `zip` (axes in step) and `list` (settings one by one), multiplied.

Works on plain data, before validation: `model_copy` would skip it. Keys are dotted, `optimizer.lr` or `probes.0.top`.

Within one run the keys are set from the outside in, `optimizer` before `optimizer.lr`, whatever their order in the
file. So the order of a grid means nothing, and a key inside a swept component is set in each of them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lossgeo.components.parsing import Keys, Problem, show
from lossgeo.recipes.documents import Document, RecipeError, dotted, read_value

MAX_RUNS = 10_000  # the ids of so many runs, of eight hex digits, are all different with 99% probability
MAX_KEYS = 100  # that one recipe may sweep; a grid over more than 13 of them has too many runs anyway
PARTS = ("sweep", "zip", "list")

Setting = dict[str, Any]  # dotted key -> value


@dataclass(frozen=True)
class _Choice:
    """One value of an axis, and where it stands."""

    value: Any
    place: str


def override(document: Document, sets: list[str], sweeps: list[str]) -> Document:
    """The document with `--set key=value` and `--sweep key=a,b,c` applied; messages then name the option.

    What the command line says of a key ends what the file sweeps of it. What is wrong with an option becomes one of the
    document's complaints.
    """
    plain, places, complaints = document.plain, document.places, list(document.complaints)
    options = [*(("--sweep", text) for text in sweeps), *(("--set", text) for text in sets)]
    swept = {text.partition("=")[0] for text in sweeps}
    for option, text in options:
        key, equals, value = text.partition("=")
        here = f"{option} {text if text.isprintable() and len(text) <= 200 else show(text)}"
        if not equals or not all(key.split(".")):
            complaints.append(f"{here}: write {option} key={'a,b,c' if option == '--sweep' else 'value'}")
            continue
        if option == "--set" and key in swept:
            complaints.append(f"{here}: {dotted(_keys(key))}there is a --sweep of this key too; keep one")
            continue
        plain = _unswept(plain, key)
        try:
            read = _read_axis(value, here) if option == "--sweep" else read_value(value, here)
        except RecipeError as error:
            complaints += error.lines
            continue
        if option == "--set" and not _inside_swept(plain, key):
            if message := put(plain, key, read):
                complaints.append(f"{here}: {dotted(_keys(key))}{message}")
            places = _moved(places, {_keys(key): here})
        else:  # as an axis it is set after the component that a sweep chooses
            grid = plain.get("sweep") or {}
            if isinstance(grid, dict):  # if not, that is what expand complains about
                plain["sweep"] = {**grid, key: read if option == "--sweep" else (read,)}
            places = _moved(places, {("sweep", key): here})
    return replace(document, plain=plain, places=places, complaints=tuple(complaints))


def expand(document: Document) -> Iterator[tuple[Document, Setting]]:
    """Every combination as a document without its sweep, and the setting that made it.

    Raises:
        RecipeError: an axis that is no list, range or log; axes of unequal length in `zip`; a key that is swept twice
            or leads nowhere; too many runs.
    """
    problems: list[Problem] = []
    grid = _axes(document, "sweep", problems)
    zipped = _axes(document, "zip", problems)
    listed = _listed(document, problems)
    lengths = {key: len(values) for key, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key}: {n}" for key, n in lengths.items())
        problems.append(Problem(("zip",), f"axes in step need equal lengths, not {shown}"))
    swept = Counter([*grid, *zipped, *{key for setting in listed for key in setting}])
    for key, places in swept.items():
        if places > 1:
            problems.append(Problem(("zip" if key in zipped else "sweep", key), "is swept in two places; keep one"))
        if key.split(".")[0] in PARTS:
            problems.append(Problem(("sweep", key), "a sweep sets keys of the recipe, not of another sweep"))
    if len(swept) > MAX_KEYS:
        problems.append(Problem(("sweep",), f"{len(swept)} keys are swept; {MAX_KEYS} are the most"))
    count = math.prod(map(len, grid.values())) * max(lengths.values(), default=1) * max(len(listed), 1)
    if count > MAX_RUNS:
        problems.append(Problem(("sweep",), f"makes {count} runs; {MAX_RUNS} are the most one recipe may make"))
    if problems:
        raise document.error(problems)

    base = replace(
        document,
        plain={key: value for key, value in document.plain.items() if key not in PARTS},
        places={keys: place for keys, place in document.places.items() if keys[:1] not in {(part,) for part in PARTS}},
    )
    rows = [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)] if zipped else [{}]
    for cell in itertools.product(*grid.values()):
        for row in rows:
            for setting in listed or [{}]:
                yield _applied(base, {**dict(zip(grid, cell, strict=True)), **row, **setting})


def _applied(base: Document, chosen: Mapping[str, _Choice]) -> tuple[Document, Setting]:
    plain = dict(base.plain)
    outside_in = sorted(chosen, key=lambda key: key.count("."))
    wrong = {key: message for key in outside_in if (message := put(plain, key, chosen[key].value))}
    document = replace(base, plain=plain, places=_moved(base.places, {_keys(k): chosen[k].place for k in outside_in}))
    if wrong:
        raise document.error([Problem(_keys(key), message) for key, message in wrong.items()])
    return document, {key: choice.value for key, choice in chosen.items()}


def _axes(document: Document, part: str, problems: list[Problem]) -> dict[str, tuple[_Choice, ...]]:
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
            # the axis and not the value: a misspelt key is one complaint, however many values it has
            axes[key] = tuple(_Choice(value, document.place((part, key))) for value in values)
    return axes


def _axis(spec: Any) -> tuple[Any, ...] | str:
    """The values of an axis, or what is wrong with it."""
    match spec:
        case tuple() if 1 <= len(spec) <= MAX_RUNS:
            return spec
        case {"range": int() | tuple() as bounds, **rest} if not rest:
            bounds = bounds if isinstance(bounds, tuple) else (bounds,)
            if 1 <= len(bounds) <= 3 and all(type(b) is int for b in bounds) and 0 not in bounds[2:]:
                values = range(*bounds)
                # the length is known without building anything, so that `range: 1e15` costs nothing
                if 0 < _length(values) <= MAX_RUNS:
                    return tuple(values)
        case {"log": (first, last, n), **rest} if not rest and type(n) is int and 2 <= n <= MAX_RUNS:
            if all(type(end) in (int, float) and 1e-300 <= end <= 1e300 for end in (first, last)):
                return _log_axis(first, last, n)
    return (
        "should be a list of values, {range: 5}, {range: [first, end, step]} or {log: [first, last, count]}, "
        f"with between 1 and {MAX_RUNS} values, not {show(spec)}"
    )


def _log_axis(first: float, last: float, n: int) -> tuple[float, ...]:
    """`n` values with equal ratios; whole numbers where both ends are written as such, for a batch size."""
    begin, end = math.log(first), math.log(last)
    # six digits: the rest would be rounding noise in every file name and table
    inner = [float(f"{math.exp(begin + (end - begin) * i / (n - 1)):.6g}") for i in range(1, n - 1)]
    whole = isinstance(first, int) and isinstance(last, int)
    return (first, *(map(round, inner) if whole else inner), last)


def _length(values: range) -> int:
    return max(0, -(-(values.stop - values.start) // values.step))  # len() takes no more than a machine word


def _listed(document: Document, problems: list[Problem]) -> list[dict[str, _Choice]]:
    block = document.plain.get("list")
    if block is None:
        return []
    if not isinstance(block, tuple) or not block or not all(isinstance(setting, dict) for setting in block):
        problems.append(
            Problem(("list",), "should be a list of settings, such as `- {batch_size: 16, optimizer.lr: 0.1}`")
        )
        return []
    return [
        {key: _Choice(value, document.place(("list", i, key))) for key, value in setting.items()}
        for i, setting in enumerate(block)
    ]


def put(plain: dict[str, Any], key: str, value: Any) -> str | None:
    """Set a dotted key in plain data, in place; returns what is wrong, if anything.

    A component given by its bare name becomes a mapping when one of its keys is set: `optimizer: sgd` and
    `optimizer.lr=0.1` make `{name: sgd, lr: 0.1}`.
    """
    way = _keys(key)
    here: Any = plain
    passed: list[Any] = []  # the containers on the way; rebuilt on the way back, since aliases may share them
    for i, step in enumerate(way):
        if isinstance(here, str):
            here = {"name": here}
        elif here is None:
            here = {}
        so_far = dotted(way[:i]).removesuffix(": ")
        if isinstance(here, tuple) and not (isinstance(step, int) and step < len(here)):
            return f"{so_far} is a list of {len(here)}; name an item by its number, from 0"
        if not isinstance(here, dict | tuple):
            return f"{so_far} is {show(here)} and has no keys"
        passed.append(here)
        here = here[int(step)] if isinstance(here, tuple) else here.get(str(step))
    made = value
    for container, step in zip(reversed(passed), reversed(way), strict=True):
        if isinstance(container, tuple):
            made = (*container[: int(step)], made, *container[int(step) + 1 :])
        else:
            made = {**container, str(step): made}
    plain.update(made)
    return None


def _keys(key: str) -> Keys:
    return tuple(int(part) if re.fullmatch(r"0|[1-9][0-9]{0,8}", part) else part for part in key.split("."))


def _moved(places: Mapping[Keys, str], new: Mapping[Keys, str]) -> dict[Keys, str]:
    """The places after these keys were set anew: what stood below them is gone, what stands above may be new."""
    moved = {keys: place for keys, place in places.items() if not any(keys[:n] in new for n in range(1, len(keys) + 1))}
    for keys, place in new.items():
        for n in range(1, len(keys)):
            moved.setdefault(keys[:n], place)
        moved[keys] = place
    return moved


def _unswept(plain: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy in which no part of the file sweeps the key."""
    kept = dict(plain)
    for part in PARTS:
        match plain.get(part):
            case dict() as axes:
                kept[part] = {k: v for k, v in axes.items() if k != key}
            case tuple() as settings:
                kept[part] = tuple(
                    {k: v for k, v in s.items() if k != key} if isinstance(s, dict) else s for s in settings
                )
    return kept


def _inside_swept(plain: dict[str, Any], key: str) -> bool:
    """Whether the key lies inside a value that a sweep replaces, such as `optimizer.lr` in a sweep of optimizers."""
    settings = [plain.get("sweep"), plain.get("zip"), *(s if isinstance(s := plain.get("list"), tuple) else ())]
    return any(key.startswith(f"{swept}.") for setting in settings if isinstance(setting, dict) for swept in setting)


def _read_axis(text: str, option: str) -> Any:
    """The axis in `--sweep key=TEXT`: `a,b,c`, one list, `{range: 5}` or `{log: [1e-3, 1, 7]}`."""
    read = read_value(f"[{text}]", option)
    match read:
        case (tuple() | {"range": _} | {"log": _} as axis,):
            return axis
    return read
