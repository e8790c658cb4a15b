"""What datasets do with arrays: one scale for all features, one digest for all content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def standardized(train: Array, test: Array) -> tuple[Array, Array]:
    """(x - mean) / deviation, with the mean of every feature and both moments from train alone.

    Features of a table (N, features) have units of their own and each its deviation; pixels of an image and samples of
    a signal (N, channels, ...) share one, so that the pattern of their variances, which is part of the data, stays.
    A feature of a table that is constant on train becomes 0 on train and on test: nothing was learned about its scale.
    """
    low, high = train.min(axis=0), train.max(axis=0)
    mean = np.where(low == high, low, train.mean(axis=0))  # the rounded mean of equal numbers need not be that number
    train, test = train - mean, test - mean
    if train.ndim == 2:
        deviation = np.where(low == high, np.inf, train.std(axis=0))
    else:
        deviation = np.where((low == high).all(), np.inf, train.std())
    return train / deviation, test / deviation


def sha256_of(*arrays: Array) -> str:
    """A digest of shapes, types and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
