"""The user's own data: arrays in an .npz file, or a table in a .csv or .parquet file.

Validation never opens the file: a recipe can be checked on a machine that does not hold the data. Nothing read here can
execute code: pickled arrays are refused.
"""

from __future__ import annotations

import difflib
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, final

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Dataset, Kind, Raw
from lossgeo.landscapes.datasets._arrays import Array
from lossgeo.landscapes.datasets._layouts import Layout, channels_first, reshaped

_SUFFIXES = (".npz", ".csv", ".parquet")
_USUAL_NAMES = (("inputs", "targets"), ("x", "y"), ("X", "y"))  # of the arrays in an .npz file


@final
class File(Dataset):
    """Your own file: .npz arrays, or a .csv or .parquet table with one example a row.

    Errors: whatever the file lacks is named with file and column, and so is every entry that is no finite number.
    """

    joined: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"layout": "channels_first", "standardize_targets": "always"}
    )

    path: str = Field(min_length=1, description="the file: .npz, .csv (with a line of column names) or .parquet")
    inputs: str | tuple[str, ...] | None = Field(
        default=None,
        description="array, or columns, of the inputs; null: inputs, x or X, or all columns but the targets",
    )
    targets: str | tuple[str, ...] | None = Field(
        default=None, description="array, or column(s), of the targets; null: targets or y, or the last column"
    )
    kind: Kind = Field(  # type: ignore[misc]  # a constant of every other dataset is a question to this one's user
        default="auto",
        description="what the targets are; auto: text is classes, fractions values, whole numbers and booleans what "
        "the loss takes; a loss that takes both needs classes or values here",
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="shape of one input, such as [1, 28, 28] for rows that are images"
    )
    layout: Layout = Field(
        default="auto",
        description="where an input's channels stand: first, as in (channels, height, width) and (channels, length), "
        "last, or nowhere, as in images (height, width); auto: as the one axis of at most 4 tells",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if Path(self.path).suffix not in _SUFFIXES:
            raise ValueError(f"`path` should end in .npz, .csv or .parquet, not {Path(self.path).name!r}")
        if self.path.endswith(".npz") and (isinstance(self.inputs, tuple) or isinstance(self.targets, tuple)):
            raise ValueError("`inputs` and `targets` each name one array of an .npz file, not a list")
        if self.inputs == () or self.targets == ():
            raise ValueError("`inputs` and `targets` should name at least one column")
        return self

    def read(self, generator: torch.Generator) -> Raw:
        if not Path(self.path).is_file():
            raise UsageError(f"{self.path}: there is no such file (looked in {Path.cwd()}); correct `dataset.path`")
        inputs, targets, columns, names = self._arrays() if self.path.endswith(".npz") else self._columns()
        source = f"file {self.path}"
        if self.shape is not None:
            inputs = reshaped(inputs, self.shape, source)
        read = inputs.shape
        inputs = channels_first(inputs, self.layout, self.shape is not None, source)
        notes = [f"targets are {names}"] if self.targets is None else []
        if inputs.shape[1:] != read[1:] and self.layout == "auto":
            notes.append("channels stand last in the file")
        return Raw(inputs, targets, source, columns=columns, target=names, notes=tuple(notes))

    # --- .npz --------------------------------------------------------------------------------------------------------

    def _arrays(self) -> tuple[Array, Array, tuple[str, ...], str]:
        if not zipfile.is_zipfile(self.path):
            raise UsageError(f"{self.path}: is no .npz archive, or a truncated one; write it with numpy.savez")
        try:
            with np.load(self.path, allow_pickle=False) as file:
                inputs_name, targets_name = self._names(file.files)
                inputs, targets = file[inputs_name], file[targets_name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            # numpy's message for arrays of Python objects names allow_pickle, which is the one thing not to do
            way_out = "save numbers and strings only, with numpy.savez"
            raise UsageError(f"{self.path}: not readable as .npz arrays ({error}); {way_out}") from error
        if inputs.dtype.kind not in "biuf" or inputs.ndim == 0:
            raise UsageError(f"{self.path}: array {inputs_name!r} holds {inputs.dtype}, not an array of numbers")
        inputs = inputs.reshape(len(inputs), -1) if inputs.ndim == 1 else inputs
        if targets.dtype.kind not in "biufU" or targets.ndim not in (1, 2):
            raise UsageError(
                f"{self.path}: array {targets_name!r} is {targets.dtype} of shape {targets.shape}; targets are labels "
                "(N,) or values (N, outputs)"
            )
        name = f"array {targets_name!r}"
        return inputs, self._typed(targets.reshape(len(targets), -1), name), (), name

    def _names(self, present: list[str]) -> tuple[str, str]:
        whole = [names for names in _USUAL_NAMES if set(names) <= set(present)]
        if len(whole) > 1 and not (self.inputs and self.targets):
            pairs = " and ".join(map(repr, whole))
            raise UsageError(f"{self.path}: holds {pairs}; say with `inputs` and `targets` which of them to take")
        usual = whole[0] if whole else _USUAL_NAMES[0]
        inputs = self.inputs if isinstance(self.inputs, str) else usual[0]
        targets = self.targets if isinstance(self.targets, str) else usual[1]
        for key, name in (("inputs", inputs), ("targets", targets)):
            if name not in present:
                raise UsageError(f"{self.path}: no array is named {name!r}; {_way_out(key, name, present)}")
        return inputs, targets

    # --- .csv and .parquet -------------------------------------------------------------------------------------------

    def _columns(self) -> tuple[Array, Array, tuple[str, ...], str]:
        table = self._table()
        present = list(table.columns)
        targets = _listed(self.targets) or present[-1:]
        inputs = _listed(self.inputs) or [name for name in present if name not in targets]
        for key, names in (("inputs", inputs), ("targets", targets)):
            for name in names:
                if name not in present:
                    raise UsageError(f"{self.path}: no column is named {name!r}; {_way_out(key, name, present)}")
        if both := sorted(set(inputs) & set(targets)):
            raise UsageError(f"{self.path}: column {both[0]!r} is both input and target; take it out of `inputs`")
        if not inputs:
            raise UsageError(f"{self.path}: no column is left for the inputs beside the targets {targets}")
        if nameless := [name for name in present if name.startswith("Unnamed: ") and self.inputs is None]:
            raise UsageError(
                f"{self.path}: column {present.index(nameless[0]) + 1} has no name and may be an index that was "
                "written along; name it, remove it, or say which columns are `inputs`"
            )
        numbers = np.stack([self._numbers(table[name]) for name in inputs], axis=1)
        labels = np.stack([self._labels(table[name]) for name in targets], axis=1)
        name = f"column {', '.join(map(repr, targets))}"
        return numbers, self._typed(labels, name), tuple(inputs), name

    def _table(self) -> pd.DataFrame:
        try:
            if self.path.endswith(".parquet"):
                table = pd.read_parquet(self.path)
            else:
                # an empty cell alone is missing: "NA" and "None" may be labels
                table = pd.read_csv(self.path, keep_default_na=False, na_values=[""])
        except (OSError, ValueError, pa.ArrowException) as error:  # pandas' own parser errors are ValueErrors
            raise UsageError(f"{self.path}: not readable as a {Path(self.path).suffix[1:]} table ({error})") from error
        names = [str(name) for name in table.columns]
        numeric = [float(name) for name in names if re.fullmatch(r"-?\d+(\.\d*)?", name)]
        # a table of pixels may well name its columns 0, 1, 2, ...; any other numbers are the first example
        wrong = len(numeric) > len(names) / 2 and numeric != [float(i) for i in range(len(numeric))]
        if wrong and self.path.endswith(".csv"):
            raise UsageError(f"{self.path}: the first line holds numbers; put a line of column names above it")
        if len(table) == 0:
            raise UsageError(f"{self.path}: there is no row in it, only the column names {', '.join(names)}")
        table.columns = pd.Index(names)
        return table

    def _numbers(self, column: pd.Series[Any]) -> Array:
        """A numeric column as finite numbers."""
        if not _is_numeric(column):
            wrong = column.notna() & pd.to_numeric(column, errors="coerce").isna()
            row = int(wrong.to_numpy().argmax())
            raise UsageError(
                f"{self.path}: column {column.name!r} holds {column.iloc[row]!r} in row {row + 1}, not a number; "
                "encode it as numbers, or leave it out with `inputs: [...]`"
            )
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(numbers).all():
            row = int(np.isfinite(numbers).argmin())
            found = "no number" if np.isnan(numbers[row]) else "an infinite number"
            raise UsageError(
                f"{self.path}: column {column.name!r} holds {found} in row {row + 1}; fill it or remove the row"
            )
        return numbers

    def _labels(self, column: pd.Series[Any]) -> Array:
        """A column of targets in its own type, which tells classes from values; nothing missing, nothing infinite."""
        if _is_numeric(column):
            self._numbers(column)
            return column.to_numpy()
        missing = column.isna().to_numpy()
        if missing.any():
            row = int(missing.argmax()) + 1
            raise UsageError(
                f"{self.path}: column {column.name!r} holds no label in row {row}; fill it or remove the row"
            )
        return column.astype(str).to_numpy(dtype=str)

    # --- both --------------------------------------------------------------------------------------------------------

    def _typed(self, targets: Array, where: str) -> Array:
        """Targets (N, columns) as they count in the digest: (N,) where classes are likely, else (N, columns)."""
        if self.kind == "values" or (self.kind == "auto" and targets.dtype.kind == "f"):
            if targets.dtype.kind == "U":
                raise UsageError(
                    f"{self.path}: {where} holds text, such as {str(targets[0, 0])!r}; use `kind: classes`"
                )
            return targets.astype(np.float64)
        if targets.shape[1] != 1:
            if targets.dtype.kind == "U":
                raise UsageError(f"{self.path}: {where}: classes stand in one column, not {targets.shape[1]}")
            return targets
        labels = targets[:, 0]
        return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def _listed(names: str | tuple[str, ...] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _way_out(key: str, name: str, present: list[str]) -> str:
    near = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    shown = ", ".join(map(repr, present[:10])) + (", ..." if len(present) > 10 else "")
    return f"did you mean `{key}: {near[0]}`?" if near else f"choose `{key}` from {shown}"
