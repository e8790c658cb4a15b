"""Handwritten digits, small enough to train in seconds."""

from __future__ import annotations

from typing import ClassVar, final

import sklearn
import torch
from sklearn.datasets import load_digits

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class Digits(Dataset):
    """1,797 images (1, 8, 8) of the digits 0 to 9, pixels in [0, 1].

    Source: Alpaydin and Kaynak 1998, the test part of "Optical Recognition of Handwritten Digits" (UCI).
    """

    kind: ClassVar[Kind] = "classes"

    def read(self, generator: torch.Generator) -> Raw:
        inputs, targets = load_digits(return_X_y=True)
        # a pixel counts the ink in a 4 x 4 cell: 0 to 16
        return Raw(inputs.reshape(-1, 1, 8, 8) / 16, targets, f"scikit-learn {sklearn.__version__} load_digits")
