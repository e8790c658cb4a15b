"""Digits as signals: as hard to tell apart as MNIST's images, at a twentieth of the size."""

from __future__ import annotations

import random
from importlib.metadata import version
from typing import ClassVar, final

import numpy as np
import torch

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class MNIST1D(Dataset):
    """5,000 signals (1, 40), drawn from ten templates that are stretched, moved, sheared and made noisy.

    Source: Greydanus and Kobak 2024, "Scaling Down Deep Learning with MNIST-1D", with the published seed 42, made anew
    and offline; `seed` draws the split alone.
    """

    kind: ClassVar[Kind] = "classes"
    extra = ("mnist1d", "data")

    def read(self, generator: torch.Generator) -> Raw:
        from mnist1d.data import get_dataset_args, make_dataset

        arguments = get_dataset_args()
        before = random.getstate(), np.random.get_state()
        try:
            made = make_dataset(arguments)  # seeds and uses the global generators of random and of numpy
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        inputs = np.concatenate([made["x"], made["x_test"]])[:, None, :]
        targets = np.concatenate([made["y"], made["y_test"]])
        return Raw(inputs, targets, f"mnist1d {version('mnist1d')} make_dataset, seed {arguments.seed}")
