"""A run's folder: its paths, manifest, lock, tables and checkpoints. Every path under outputs/ is made here.

What is on the disk at any moment is whole: files are replaced atomically, and a checkpoint is written after the tables
that lead up to it. A checkpoint is the point as the probes find it, before anything is measured there; a resumed run
measures from that step on again and replaces the rows that it finds there, so that nothing is counted twice.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import lossgeo
from lossgeo.components.finding import used_files
from lossgeo.components.reads import watched
from lossgeo.errors import LossgeoError, RunError, UsageError
from lossgeo.files import remove_parts, set_aside, write_atomically
from lossgeo.folders import CHECKPOINTS, COMPONENTS, EIGENVECTORS, MANIFEST, RECIPE
from lossgeo.recipes.documents import read_document, write_document
from lossgeo.recipes.resolving import Resolved, resolve, sha256_of_file
from lossgeo.tables import Column, Table

Manifest = dict[str, Any]
Tensors = dict[str, torch.Tensor]

FINISHED = ("done", "diverged")
COPIED = 2**26  # bytes of a file that a component reads; every run of a sweep has its copy
CHECKPOINT = re.compile(r"step-(\d{8})\.safetensors")
WITHOUT_MANIFEST = "remove that file, and the command that trained the run goes on from its last checkpoint"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Run:
    """One resolved recipe and its folder.

    `folder` is `<out>/<recipe name>/<slug>-<id>`; a folder of the same id with another slug is the same run.
    """

    def __init__(self, resolved: Resolved, folder: Path, run_id: str | None = None) -> None:
        self.resolved = resolved
        self.recipe = resolved.recipe
        self.id = run_id or resolved.id
        self.folder = folder

    @classmethod
    def under(cls, out: Path, resolved: Resolved) -> Self:
        """The run's place below `out`, whether or not it exists yet."""
        parent = out / resolved.recipe.name
        run_id = resolved.id
        there = next((folder for folder in sorted(parent.glob(f"*-{run_id}")) if folder.is_dir()), None)
        return cls(resolved, there or parent / f"{resolved.slug}-{run_id}", run_id)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """An existing run, wherever its folder stands now and whatever it is called.

        Raises:
            RunError: its recipe, its components or a file that one reads were changed after the run was made.
            UsageError: one of these is missing.
        """
        manifest, path = _manifest(folder), folder / RECIPE
        if "content" not in manifest or manifest["content"] != _content(folder, manifest):
            raise RunError(
                f"{path}: it or a file in components/ is not what the run was made from; the command that trained the "
                f"run puts them back, and a change is a recipe of its own: lossgeo train {shlex.quote(str(path))}"
            )
        own = folder / COMPONENTS
        search = used_files([own]) if own.is_dir() else ()
        found = resolve(read_document(path.read_bytes(), str(path)), search=search, whole=True)[0]
        for place, digest in manifest.get("files", {}).items():
            if found.content.get(place) != digest:
                raise RunError(f"{place}, which a component of the run reads, is not what it was; put it back")
        return cls(found, folder, manifest["run"])

    # --- manifest ----------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """run.json as it stands; empty where there is none.

        Raises:
            RunError: it is not what lossgeo wrote.
        """
        return _manifest(self.folder)

    def note(self, **entries: Any) -> None:
        """Change entries of run.json."""
        manifest = self.manifest() | entries
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    def check_data(self, sha256: str) -> None:
        """Refuse data other than those the run was begun with.

        Raises:
            RunError: they differ.
        """
        if (self.manifest().get("data") or {}).get("sha256", sha256) != sha256:
            raise RunError("was begun with other data; put them back, or remove the folder to train on the new ones")

    def untouched(self) -> bool:
        """Whether recipe and components are those that the run was made from."""
        return (manifest := self.manifest()).get("content") == _content(self.folder, manifest)

    def check_files(self) -> None:
        """Refuse to go on once a file that a component reads has changed since the id was made.

        Raises:
            RunError: one has.
        """
        if (name := self.resolved.changed()) is not None:
            raise RunError(f"{name}, which a component reads, was changed since the command began; give it again")

    def make(self) -> list[str]:
        """Put the recipe, all that the user's components bring along and the beginnings of a manifest into the folder.

        Files that differ were edited there: they are set aside, and a sentence for each is returned. Of a large file
        there is a link, of one that is named from the root its digest alone.
        """
        resolved, own = self.resolved, self.folder / COMPONENTS
        files = {self.folder / RECIPE: write_document(resolved.plain)}
        files |= {own / place: content for place, content in resolved.modules.items()}
        beside = {own / name: path.resolve() for name, path in resolved.files.items() if not Path(name).is_absolute()}
        files |= {path: source.read_bytes() for path, source in beside.items() if source.stat().st_size <= COPIED}
        notes = []
        for path, data in files.items():
            if path.exists() and path.read_bytes() != data:
                aside = set_aside(path, "edited")
                notes.append(f"{path} was edited; the run goes on as it was made, the edit is kept as {aside.name}")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
        for path, source in beside.items():
            if path not in files and not path.exists():  # too large to be copied
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a link to what is gone
                path.symlink_to(source)
        brought = {"files": resolved.content} if resolved.content else {}
        facts = {"content": _content(self.folder, brought), **brought}
        self.note(run=self.id, recipe=self.recipe.name, status="running", **facts)
        return notes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go when the process ends, however it ends.

        Raises:
            UsageError: the folder cannot be made or written.
            RunError: another process holds the run, or the disk is full.
        """
        path = self.folder / ".lock"
        try:
            (self.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            if error.errno in FULL:
                raise RunError(f"cannot be written: {error.strerror}; free some space") from error
            raise UsageError(
                f"cannot be written: {error.strerror}; make it writable, or choose another folder"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(f"in use by process {file.read().strip()}; wait for it or stop it") from error
            except OSError as error:  # some network file systems
                raise RunError(f"cannot be locked: {error.strerror}; choose a folder on a local disk") from error
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}")
            file.flush()
            for folder in (self.folder, self.folder / CHECKPOINTS, self.folder / COMPONENTS):
                remove_parts(folder)
            yield

    # --- tables ------------------------------------------------------------------------------------------------------

    def table(self, name: str, columns: tuple[Column, ...]) -> Table:
        """The run's table of that name, empty where there is none yet."""
        return Table.open(self.folder / f"{name}.parquet", columns)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints by step, in order."""
        files = sorted((self.folder / CHECKPOINTS).glob("step-*.safetensors"))
        return {int(match[1]): file for file in files if (match := CHECKPOINT.fullmatch(file.name))}

    def save(self, step: int, tensors: Tensors) -> None:
        """Write a checkpoint."""
        self._write(self.folder / CHECKPOINTS / f"step-{step:08d}.safetensors", step, tensors)

    def keep(self, key: str, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write vectors that a probe found: eigenvectors/<probe>-step-<8 digits>.safetensors."""
        folder = self.folder / EIGENVECTORS
        folder.mkdir(exist_ok=True)
        self._write(folder / f"{key}-step-{step:08d}.safetensors", step, tensors)

    def _write(self, path: Path, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_atomically(path, save(whole, {"lossgeo": lossgeo.__version__, "run": self.id, "step": str(step)}))

    def load(self, step: int) -> Tensors:
        """The tensors of a checkpoint.

        Raises:
            RunError: there is none for that step, the file is torn, or it is another run's.
        """
        path = self.checkpoints().get(step)
        if path is None:
            known = ", ".join(map(str, self.checkpoints())) or "none"
            raise RunError(f"no checkpoint at step {step}; there are {known}")
        try:
            with safe_open(path, framework="pt") as file:
                origin = file.metadata() or {}
                if (origin.get("run"), origin.get("step")) != (self.id, str(step)):
                    raise RunError(f"{path}: is not this run's checkpoint of that step")
                # copied, so that the memory is torch's own and aligned as it was when the run began
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path}: torn ({error})") from error


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        made = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {WITHOUT_MANIFEST}") from error
    if not isinstance(made, dict):
        raise RunError(f"{path}: is not what lossgeo wrote; {WITHOUT_MANIFEST}")
    return made


def _content(folder: Path, manifest: Manifest) -> str:
    """A digest of the files that a run is made from."""
    own = folder / COMPONENTS
    files = {path for path in own.rglob("*.py") if "__pycache__" not in path.parts}
    files |= {own / place for place in manifest.get("files", {}) if not Path(place).is_absolute()}
    made_from = {RECIPE: folder / RECIPE} | {path.relative_to(own).as_posix(): path for path in sorted(files)}
    content = {name: sha256_of_file(path) for name, path in made_from.items() if path.is_file()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def left_behind(out: Path, runs: Sequence[Run]) -> Iterator[str]:
    """A sentence for every unfinished run of the same recipe names that is not among these: the recipe was changed."""
    ids = {run.id for run in runs}
    for name in dict.fromkeys(run.recipe.name for run in runs):
        for file in sorted((out / name).glob(f"*/{MANIFEST}")):
            try:
                manifest = _manifest(file.parent)
            except LossgeoError:
                continue  # none of these runs; whoever reads that folder is told
            if manifest.get("run") not in ids and manifest.get("status") not in FINISHED:
                use = ["--use", str(file.parent / COMPONENTS)] if (file.parent / COMPONENTS).is_dir() else []
                command = ["lossgeo", "train", str(file.with_name(RECIPE)), "--out", str(out), *use]
                where = f"{file.parent} ({manifest.get('status')} at step {manifest.get('step', 0)})"
                yield f"{where} belongs to another version of {name}; go on with it by: {shlex.join(command)}"


@contextmanager
def contained(run: Run, noted: bool = False) -> Iterator[None]:
    """Turn whatever is raised inside into a RunError; `noted`: and write it into run.json."""
    try:
        with watched():
            yield
    except LossgeoError:
        raise
    except (Exception, SystemExit) as error:  # a user's model may raise anything, and the other runs have to go on
        reason = _reason(run, error)
        if noted:
            with suppress(OSError, RunError):  # a full disk may not take it
                run.note(status="failed", reason=reason, traceback=traceback.format_exc())
        raise RunError(reason) from error


def _reason(run: Run, error: BaseException) -> str:
    """What was raised, in one line, and where in a user's file."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{text}; free some space, and the same command goes on from the last checkpoint"
    own = {str(file.resolve()) for file in run.resolved.used}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) in own]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
