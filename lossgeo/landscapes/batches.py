"""The order in which training sees its examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from lossgeo.landscapes.task import Examples
from lossgeo.randomness import generator, trial_seed

GATHERED = 64 * 1024 * 1024  # bytes of shuffled examples laid out at a time; whole epochs of small data


def batches(train: Examples, size: int, seed: int, step: int) -> Iterator[Examples]:
    """The batches from `step` on: every epoch a new order without replacement, the last batch of an epoch ragged.

    The order of an epoch is a function of the seed and the epoch alone, so a step number is all that resuming needs.
    Examples are gathered many batches at a time and handed out as views. Those blocks begin at the same batches
    wherever training resumes, since the alignment of a view in memory can change the last bit of a product.
    """
    if size >= train.size:
        while True:
            yield train
    per_epoch = math.ceil(train.size / size)
    example = train.inputs[0].numel() * train.inputs.element_size()
    block = max(1, GATHERED // (size * example))  # batches in a block
    epoch, skip = divmod(step, per_epoch)
    while True:
        order = torch.randperm(train.size, generator=generator(seed, "batches", epoch)).to(train.inputs.device)
        for begin in range(skip // block * block, per_epoch, block):
            rows = train.rows(order[begin * size : (begin + block) * size])
            pieces = zip(torch.split(rows.inputs, size), torch.split(rows.targets, size), strict=True)
            for number, piece in enumerate(pieces, start=begin):
                if number >= skip:
                    yield Examples(*piece)
        epoch, skip = epoch + 1, 0


def trial_batches(
    train: Examples, size: int, seed: int, trials: int, step: int, running: Callable[[], torch.Tensor]
) -> Iterator[Examples]:
    """The batches of the trials that are `running`, (R, B, ...), each in the order that it would have by itself."""
    if size >= train.size:
        while True:
            count = len(running())
            yield Examples(*(whole.expand(count, *whole.shape) for whole in train))
    per_epoch = math.ceil(train.size / size)
    epoch, skip = divmod(step, per_epoch)
    orders = torch.zeros(trials, train.size, dtype=torch.int64)
    while True:
        for trial in running().tolist():
            stream = generator(trial_seed(seed, trial), "batches", epoch)
            torch.randperm(train.size, generator=stream, out=orders[trial])
        for number in range(skip, per_epoch):
            which = orders[running(), number * size : (number + 1) * size].to(train.inputs.device)
            yield train.rows(which)
        epoch, skip = epoch + 1, 0
