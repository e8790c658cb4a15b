"""Where the channels of an input stand: first as in torch, last as in image files, or nowhere.

A shape rarely tells: (28, 28) may be an image or a signal of 28 channels. What it leaves open is asked for.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets._arrays import Array

Layout = Literal["auto", "channels_first", "channels_last", "no_channels"]

FEW = 4  # channels, as of gray, color and color with transparency; an axis this short is one of channels


def channels_first(inputs: Array, layout: Layout, said: bool, where: str) -> Array:
    """Inputs (N, ...) as (N, channels, ...), where they are no rows; `said`: the user gave the shape.

    Raises:
        UsageError: the shape does not tell where the channels stand, with the readings there are.
    """
    shape = inputs.shape[1:]
    if layout == "auto":
        layout = _told(shape, said, where)
    if len(shape) == 1 and layout == "channels_last":
        raise UsageError(f"{where}: an input is a row of {shape[0]} numbers without channels; leave `layout` out")
    match layout:
        case "channels_last":
            return np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
        case "no_channels":
            return inputs[:, None]
        case _:
            return inputs


def reshaped(inputs: Array, shape: tuple[int, ...], where: str) -> Array:
    """Rows in a shape, or inputs with other axes of length 1, or as rows; nothing that would mix the axes up.

    Raises:
        UsageError: the numbers do not fit, or would be mixed up.
    """
    before = inputs.shape[1:]
    size = int(np.prod(before))
    if size != int(np.prod(shape)):
        raise UsageError(
            f"{where}: an input has {size} numbers, `shape: {list(shape)}` takes {int(np.prod(shape))}; correct `shape`"
        )
    axes, wanted = ([side for side in sides if side > 1] for sides in (before, shape))
    if len(before) > 1 and len(shape) > 1 and axes != wanted:
        raise UsageError(
            f"{where}: an input is {before}; as `shape: {list(shape)}` its numbers would be mixed up; leave `shape` "
            "out, and say with `layout` where its channels stand"
        )
    return inputs.reshape(len(inputs), *shape)


def _told(shape: tuple[int, ...], said: bool, where: str) -> Layout:
    if len(shape) not in (2, 3):
        return "channels_first"  # rows have no channels; of more axes no model here has a reading
    first, last = shape[0] <= FEW, shape[-1] <= FEW
    if len(shape) == 2:
        first, last = first if said else shape[0] == 1, False
    if first and (said or not last):
        return "channels_first"
    if last and not first:
        return "channels_last"
    *sides, inner = shape
    outer, *others = shape
    if len(shape) == 2:
        readings = f"images of {outer} x {inner}", f"signals of {outer} channels", f"signals of {inner} channels"
    else:
        readings = (
            f"volumes of {' x '.join(map(str, shape))}",
            f"{outer} channels of {' x '.join(map(str, others))}",
            f"{inner} channels of {' x '.join(map(str, sides))}",
        )
    raise UsageError(
        f"{where}: an input is {shape}, which can be read in three ways; say `layout: no_channels` for "
        f"{readings[0]}, `channels_first` for {readings[1]}, or `channels_last` for {readings[2]}"
    )
