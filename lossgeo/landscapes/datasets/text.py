"""Sequences of characters, and at every position the character that comes next.

Windows do not overlap. Overlapping ones would put most of the test text into the training set, and their losses would
not be those of independent examples.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
import sklearn
import torch
from pydantic import Field, model_validator

from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Dataset, Kind, Raw


@final
class Text(Dataset):
    """Windows of a text, cut one after the other; the tokens are its characters, numbered in the order of Unicode.

    The text is your own file, or the 43,000 characters of English with which scikit-learn describes its datasets, a
    corpus that is the same wherever the same scikit-learn is installed.

    Errors: a file that is missing or no UTF-8 text, or a text too short for two windows or of one character alone.
    """

    kind: ClassVar[Kind] = "classes"

    path: str | None = Field(
        default=None, min_length=1, description="your text, in UTF-8; null: scikit-learn's descriptions of its datasets"
    )
    context: int = Field(default=32, ge=1, le=1_000_000, description="characters in a window")
    standardize: bool = Field(default=False, description="has to be false: tokens are no numbers")

    @model_validator(mode="after")
    def _of_characters(self) -> Self:
        option = "standardize" if self.standardize else self._option_of_classes()
        if option is not None:
            raise ValueError(f"the examples are characters and the targets the next ones; leave `{option}` out")
        return self

    def read(self, generator: torch.Generator) -> Raw:
        text, source = _descriptions() if self.path is None else (_content(self.path), f"file {self.path}")
        windows = (len(text) - 1) // self.context
        if windows < 2:
            raise UsageError(
                f"{source}: {len(text)} characters hold {max(windows, 0)} windows of {self.context} with their next "
                "one; lower `context`"
            )
        characters, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
        if len(characters) < 2:
            raise UsageError(f"{source}: every character is {text[0]!r}; there is nothing to learn")
        end = windows * self.context
        inputs, targets = (tokens[begin : begin + end].reshape(windows, self.context) for begin in (0, 1))
        return Raw(inputs, targets, source, len(characters))


def _descriptions() -> tuple[str, str]:
    """The text, and what it is."""
    folder = files("sklearn.datasets.descr")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".rst"))
    text = "".join(folder.joinpath(name).read_text("utf-8") for name in names)
    return text, f"scikit-learn {sklearn.__version__} datasets/descr/*.rst"


def _content(path: str) -> str:
    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such file (looked in {Path.cwd()}); correct `dataset.path`")
    try:
        return Path(path).read_text("utf-8-sig")  # a mark that some editors put first is no character
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as UTF-8 text ({error})") from error
