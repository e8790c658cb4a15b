"""A run's folder: its paths, manifest, lock, tables and checkpoints. Every path under outputs/ is made here.

What is on the disk at any moment is whole: files are replaced atomically, and a checkpoint is written after the tables
that lead up to it. A checkpoint is the point as the probes find it, before anything is measured there; a resumed run drops
the rows from that step on and measures them again, so that nothing is counted twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import lossgeo
from lossgeo.component import used_files
from lossgeo.documents import read_document
from lossgeo.errors import RunError, UsageError
from lossgeo.files import write_atomically
from lossgeo.recipe import Resolved, resolve
from lossgeo.tables import Column, Table

Manifest = dict[str, Any]
Tensors = dict[str, torch.Tensor]

FINISHED = ("done", "diverged")


class Run:
    """One resolved recipe and its folder.

    `folder` is `<out>/<recipe name>/<slug>-<id>`; a folder of the same id with another slug is the same run.
    """

    def __init__(self, resolved: Resolved, folder: Path) -> None:
        self.resolved = resolved
        self.recipe = resolved.recipe
        self.id = resolved.id
        self.folder = folder

    @classmethod
    def under(cls, out: Path, resolved: Resolved) -> Self:
        """The run's place below `out`, whether or not it exists yet."""
        parent = out / resolved.recipe.name
        run_id = resolved.id
        there = next(iter(sorted(parent.glob(f"*-{run_id}"))), None)
        return cls(resolved, there or parent / f"{resolved.slug}-{run_id}")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """An existing run.

        Raises:
            RunError: the recipe in the folder is missing, or was edited after the run was made.
        """
        path = folder / "recipe.yaml"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from error
        own = folder / "components"
        used = used_files([own]) if own.is_dir() else ()
        found = resolve(read_document(text, str(path)), search=used)
        if len(found) != 1 or not folder.name.endswith(f"-{found[0].id}"):
            raise RunError(
                f"{path}: was edited after the run was made, so the folder no longer holds what it says; "
                "train it as a recipe of its own: lossgeo train " + str(path)
            )
        return cls(found[0], folder)

    # --- manifest ----------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """run.json as it stands; empty where there is none.

        Raises:
            RunError: it is not JSON.
        """
        path = self.folder / "run.json"
        try:
            made: Manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{path}: not JSON ({error}); remove the folder to train the run again") from error
        return made

    def note(self, **entries: Any) -> None:
        """Change entries of run.json."""
        manifest = self.manifest() | entries
        write_atomically(self.folder / "run.json", (json.dumps(manifest, indent=2) + "\n").encode())

    def check_data(self, sha256: str) -> None:
        """Refuse data other than those the run was begun with.

        Raises:
            RunError: they differ.
        """
        if self.manifest().get("data", {}).get("sha256", sha256) != sha256:
            raise RunError(
                f"{self.folder}: was begun with other data; put them back, or remove the folder to begin again"
            )

    def make(self) -> None:
        """Make the folder with the recipe and the user's own components in it.

        Raises:
            UsageError: the outputs folder cannot be written.
        """
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            if self.resolved.used:
                (self.folder / "components").mkdir(exist_ok=True)
                for file in self.resolved.used:
                    if file.parent.resolve() != (self.folder / "components").resolve():
                        shutil.copyfile(file, self.folder / "components" / file.name)
            text = yaml.safe_dump(self.resolved.plain, sort_keys=False, allow_unicode=True)
            write_atomically(self.folder / "recipe.yaml", text.encode())
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be written: {error.strerror}; choose a folder with --out"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go when the process ends, however it ends.

        Raises:
            RunError: another process holds it.
        """
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.folder}: in use by process {file.read().strip()}; wait for it or stop it"
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}")
            file.flush()
            yield

    # --- tables ------------------------------------------------------------------------------------------------------

    def table(self, name: str, columns: tuple[Column, ...]) -> Table:
        """The run's table of that name, empty where there is none yet."""
        return Table.open(self.folder / f"{name}.parquet", columns)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints by step, in order."""
        files = sorted((self.folder / "checkpoints").glob("step-*.safetensors"))
        return {int(file.stem.removeprefix("step-")): file for file in files}

    def save(self, step: int, tensors: Tensors) -> None:
        """Write a checkpoint; with `keep: last` the ones before it go."""
        path = self.folder / "checkpoints" / f"step-{step:08d}.safetensors"
        whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_atomically(path, save(whole, {"lossgeo": lossgeo.__version__, "run": self.id, "step": str(step)}))
        if self.recipe.checkpoint.keep == "last":
            for other in self.checkpoints().values():
                if other != path:
                    other.unlink()

    def load(self, step: int) -> Tensors:
        """The tensors of a checkpoint.

        Raises:
            RunError: there is none for that step, or the file is torn.
        """
        path = self.checkpoints().get(step)
        if path is None:
            known = ", ".join(map(str, self.checkpoints())) or "none"
            raise RunError(f"{self.folder}: no checkpoint at step {step}; there are {known}")
        try:
            with safe_open(path, framework="pt") as file:
                # copied, so that the memory is torch's own and aligned as it was when the run began
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path}: torn ({error}); an earlier checkpoint serves in its place") from error


def left_behind(out: Path, runs: Sequence[Run]) -> Iterator[str]:
    """A sentence for every unfinished run of the same recipe names that is not among these: the recipe was changed."""
    ids = {run.id for run in runs}
    for name in dict.fromkeys(run.recipe.name for run in runs):
        for file in sorted((out / name).glob("*/run.json")):
            manifest = json.loads(file.read_bytes())
            if manifest.get("run") not in ids and manifest.get("status") not in FINISHED:
                where = f"{file.parent} ({manifest.get('status')} at step {manifest.get('step', 0)})"
                yield f"{where} belongs to another version of {name}; go on with it by: lossgeo train {file.parent}/recipe.yaml"
