"""Tumors, two classes that a line almost separates."""

from __future__ import annotations

from typing import ClassVar, final

import sklearn
import torch
from sklearn.datasets import load_breast_cancer

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class BreastCancer(Dataset):
    """569 tumors, 30 measures of their cell nuclei; malignant (0) or benign (1).

    Source: Street, Wolberg and Mangasarian 1993, "Breast Cancer Wisconsin (Diagnostic)" (UCI).
    """

    kind: ClassVar[Kind] = "classes"

    def read(self, generator: torch.Generator) -> Raw:
        inputs, targets = load_breast_cancer(return_X_y=True)
        return Raw(inputs, targets, f"scikit-learn {sklearn.__version__} load_breast_cancer")
