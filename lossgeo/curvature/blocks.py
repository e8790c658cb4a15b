"""Which parameters a block holds: the names that a glob matches, and the layers that they belong to."""

from __future__ import annotations

from fnmatch import fnmatchcase

from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape


def matching(landscape: Landscape, pattern: str) -> tuple[str, ...]:
    """The names of the parameters that a glob matches, as in `layers.0.*`, or one of several with commas between.

    Raises:
        UsageError: none does.
    """
    names = [name for name, _ in landscape.module.named_parameters()]
    found = tuple(name for name in names if any(fnmatchcase(name, glob) for glob in pattern.split(",")))
    if not found:
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise UsageError(f"parameters: {pattern!r} matches none of the model's parameters; it has {shown}")
    return found


def layers(landscape: Landscape, pattern: str) -> dict[str, tuple[str, ...]]:
    """The parameters that a glob matches, by layer: those that one module owns. Keys are globs themselves."""
    groups: dict[str, list[str]] = {}
    for name in matching(landscape, pattern):
        owner, _, _ = name.rpartition(".")
        groups.setdefault(f"{owner}.*" if owner else name, []).append(name)
    # where a module's children have parameters too, the glob would take them in
    labels = {
        glob: glob if matching(landscape, glob) == tuple(mine) else ",".join(mine) for glob, mine in groups.items()
    }
    return {labels[glob]: tuple(mine) for glob, mine in groups.items()}
