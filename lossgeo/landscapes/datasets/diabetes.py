"""Diabetes patients, the one real regression that ships with scikit-learn."""

from __future__ import annotations

from typing import ClassVar, final

import sklearn
import torch
from sklearn.datasets import load_diabetes

from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class Diabetes(Dataset):
    """442 patients, 10 measures each; the progress of the disease one year on, as a value.

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, "Least Angle Regression".
    """

    kind: ClassVar[Kind] = "values"

    def read(self, generator: torch.Generator) -> Raw:
        # scaled=False: scikit-learn would scale with moments of all patients, and the test set would leak into training
        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
        return Raw(inputs, targets.reshape(-1, 1), f"scikit-learn {sklearn.__version__} load_diabetes")
