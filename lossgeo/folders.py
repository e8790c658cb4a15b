"""Where things stand in a run's folder, and which folders are runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lossgeo.errors import NothingToReport, RunError, UsageError

MANIFEST, RECIPE = "run.json", "recipe.yaml"
COMPONENTS, CHECKPOINTS, EIGENVECTORS = "components", "checkpoints", "eigenvectors"


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders among these folders and everything below them, sorted, each once.

    Raises:
        UsageError: a path is not a folder.
        NothingToReport: no run anywhere.
        RunError: a folder cannot be listed.
    """
    found = {folder.resolve(): folder for path in paths for folder in _below(path)}
    if not found:
        raise NothingToReport(f"no run in {', '.join(map(str, paths))}: name folders that `lossgeo train` printed")
    return sorted(found.values())


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        raise UsageError(f"{path}: {'is a file; name its folder' if path.exists() else 'no such folder'}")

    def refuse(error: OSError) -> None:
        raise RunError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, below, files in os.walk(path, onerror=refuse):
        if MANIFEST in files:
            below.clear()  # a run's own subfolders hold checkpoints, never runs
            yield Path(folder)
