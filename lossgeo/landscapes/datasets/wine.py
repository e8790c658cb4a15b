"""Wines, the smallest of the data sets: whole Hessians of its models fit everywhere."""

from __future__ import annotations

from typing import ClassVar, final

import sklearn
import torch
from sklearn.datasets import load_wine

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class Wine(Dataset):
    """178 wines of three growers, 13 chemical measures.

    Source: Aeberhard and Forina 1992, "Wine" (UCI).
    """

    kind: ClassVar[Kind] = "classes"

    def read(self, generator: torch.Generator) -> Raw:
        inputs, targets = load_wine(return_X_y=True)
        return Raw(inputs, targets, f"scikit-learn {sklearn.__version__} load_wine")
