"""What datasets do with arrays: one scale for all features, one digest for all content, and nothing lost on the way."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def standardized(train: Array, test: Array) -> tuple[Array, Array]:
    """(x - mean) / deviation, with the mean of every feature and both moments from train alone.

    Features of a table (N, features) have units of their own and each its deviation; pixels of an image and samples of
    a signal (N, channels, ...) share one, so that the pattern of their variances, which is part of the data, stays.
    A feature of a table that is constant on train becomes 0 on train and on test: nothing was learned about its scale.
    """
    rows = train.ndim == 2
    largest = np.abs(train).max(axis=0 if rows else None)
    # squares of 1e200 are infinite, those of 1e-200 zero; a power of two changes no bit of the result
    scale = np.exp2(np.frexp(largest)[1] - 1.0)
    train, test = train / scale, test / scale
    low, high = train.min(axis=0), train.max(axis=0)
    mean = np.where(low == high, low, train.mean(axis=0))  # the rounded mean of equal numbers need not be that number
    train, test = train - mean, test - mean
    if rows:
        deviation = np.where(low == high, np.inf, train.std(axis=0))
    else:
        deviation = np.where((low == high).all(), np.inf, train.std())
    return train / deviation, test / deviation


def indicators(values: Array) -> bool:
    """Whether values say yes or no, and have no unit that could be another: all 0 or 1, or all -1 or 1."""
    return bool(np.isin(values, (0, 1)).all() or np.isin(values, (-1, 1)).all())


def inexact(array: Array) -> tuple[int, Any] | None:
    """The first example, and its number, that float64 cannot hold: whole numbers beyond 2^53."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return None
    whole = np.abs(array.astype(np.longdouble)) <= 2**53
    wrong = ~(whole | (array.astype(np.float64).astype(np.longdouble) == array.astype(np.longdouble)))
    if not wrong.any():
        return None
    example = int(wrong.reshape(len(array), -1).any(axis=1).argmax())
    return example, array[example][wrong[example]].flat[0]


def lost(numbers: torch.Tensor, dtype: torch.dtype, varies: bool) -> tuple[int, int, float, bool] | None:
    """The first example with a number that a dtype makes infinite, its feature, the number in float64; and True.

    Where there is none, and with `varies`: the first with a number that differs from others of its feature in float64,
    in which all are equal in the dtype; and False.
    """
    rows = numbers.reshape(len(numbers), -1)
    held = rows.to(dtype)
    wrong = ~torch.isfinite(held)
    infinite = bool(wrong.any())
    if varies and not infinite:
        wrong = (held.amin(0) == held.amax(0)) & (rows != rows[:1])
    if not wrong.any():
        return None
    example, feature = (int(i) for i in wrong.nonzero()[0])
    return example, feature, float(rows[example, feature]), infinite


def sha256_of(*arrays: Array) -> str:
    """A digest of shapes, types and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
