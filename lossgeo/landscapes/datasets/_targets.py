"""Which kind of target an array holds: what its type and shape say, and where these leave it open, what the loss says.

Whole numbers may be classes or values. A loss that takes one of them decides; where it takes both, the user is asked.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets._arrays import Array
from lossgeo.landscapes.task import Targets

UNCOUNTED = -100  # a target that torch's losses leave out
MANY = 10  # labels; above that, more labels than half of the examples are no classes unless the user says so


class Told(NamedTuple):
    """Targets of a known kind."""

    kind: Targets
    targets: Array  # values (N, outputs) in float64, or the place (N,) of every label in `labels`
    labels: list[Any]  # of classes, ascending; empty for values


def told(
    targets: Array, kind: Literal["classes", "values", "auto"], meant: bool, accepts: tuple[Targets, ...], where: str
) -> Told:
    """The targets (N,) or (N, columns) as classes or as values.

    `kind` is what the dataset says of them, `meant` that an option of classes is in use, `accepts` what the loss takes,
    empty where nothing is known of it. Then whole numbers (N,) are classes and numbers (N, columns) values.

    Raises:
        UsageError: they are not of that kind, or it cannot be told; `where` names them.
    """
    if targets.dtype.kind == "O" and all(isinstance(label, str) for label in targets.flat):
        targets = targets.astype(str)
    if targets.dtype.kind not in "biufU" or targets.ndim not in (1, 2):
        raise UsageError(
            f"{where}: {targets.dtype} of shape {targets.shape}; targets are labels (N,) or values (N, outputs)"
        )
    column = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if kind == "auto":
        kind = _told_by_type(targets, column, meant, accepts, where)
    if kind == "values":
        return Told("values", _values(targets, where), [])
    if column.ndim == 1:
        labels, places = np.unique(column, return_inverse=True)
        return Told("classes", places, labels.tolist())
    if not _one_hot(column):
        raise UsageError(
            f"{where}: classes stand in one column, or in one column each of which an example has a single 1; here are "
            f"{column.shape[1]} columns; use `kind: values`"
        )
    return Told("classes", column.argmax(axis=1), list(range(column.shape[1])))


def _told_by_type(targets: Array, column: Array, meant: bool, accepts: tuple[Targets, ...], where: str) -> Targets:
    if targets.dtype.kind == "U":
        if not meant:
            _refuse_numbers_as_text(column, where)
            _refuse_many(column, where)
        return "classes"
    whole = column.dtype.kind in "biu" or bool((column == np.floor(column)).all())
    if column.ndim == 2:
        return "classes" if accepts == ("classes",) and _one_hot(column) else "values"
    if not whole or accepts == ("values",):
        return "values"
    if accepts != ("classes",) and (targets.ndim == 2 or (accepts and column.dtype.kind == "f")):
        return "values"  # by their shape or their type
    if meant:
        return "classes"
    if accepts in ((), ("classes",)):
        _refuse_many(column, where)
        if UNCOUNTED in column and column.max() >= 0:
            raise UsageError(
                f"{where}: {UNCOUNTED} marks what does not count in torch; name the others with `classes`, or "
                "say `kind: classes`"
            )
        return "classes"
    found = np.unique(column)
    some = ", ".join(str(label) for label in found[:3].tolist()) + (", ..." if len(found) > 3 else "")
    raise UsageError(
        f"{where}: {len(found)} different whole numbers ({some}) may be classes or values, and the loss takes both; "
        "say `kind: classes` or `kind: values`"
    )


def _values(targets: Array, where: str) -> Array:
    if targets.dtype.kind == "U":
        raise UsageError(f"{where}: holds text, such as {str(targets.flat[0])!r}; use `kind: classes`")
    return targets.reshape(len(targets), -1).astype(np.float64)


def _one_hot(rows: Array) -> bool:
    return rows.dtype.kind in "biuf" and bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())


def _refuse_many(labels: Array, where: str) -> None:
    count = len(np.unique(labels))
    if count > max(MANY, len(labels) / 2):
        raise UsageError(
            f"{where}: {count} different ones in {len(labels)} examples are hardly classes; say `kind: classes` "
            "if they are; values take `loss: mse`"
        )


def _refuse_numbers_as_text(labels: Array, where: str) -> None:
    """One word in a column of numbers makes text of it all, and every number a class."""
    number = np.array([_is_number(label) for label in labels.flat], dtype=bool)
    if number.any():
        word = str(labels.flat[int(number.argmin())]) if not number.all() else None
        why = f"{word!r} stands among numbers in example {int(number.argmin())} (counted from 0)"
        raise UsageError(
            f"{where}: {why if word is not None else 'numbers are written as text'}; correct it, or say "
            "`kind: classes` if they are labels"
        )


def _is_number(label: Any) -> bool:
    try:
        return bool(np.isfinite(float(label)))
    except ValueError:
        return False
