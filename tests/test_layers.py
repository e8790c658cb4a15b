"""The house's rules, read off the source: imports point down only, one file prints, algorithms know no networks."""

from __future__ import annotations

import ast
from pathlib import Path

import lossgeo

ROOT = Path(lossgeo.__file__).parent

# top first; a module may import what stands below its own line, and its own package
LAYERS = [
    {"__main__"},
    {"cli"},
    {"display"},
    {"executors"},
    {"probing"},
    {"training"},
    {"escapes"},
    {"resuming"},
    {"batches", "containment", "packing"},
    {"schema", "runs", "terrain"},
    {"recipe"},
    {"sweeps"},
    {"catalog"},
    {"formats"},
    {"reports"},
    {"study", "statistics", "survival", "laws", "verdicts"},
    {"probes"},
    {"documents"},
    {"parsing"},
    {"finding"},
    {"course", "prediction"},
    {"saddles"},
    {"plants"},
    {"operators"},
    {"graphs"},
    {"neighborhood"},
    {"machine", "optimizers", "schedules", "repeatability"},
    {"landscape"},
    {"ensemble"},
    {"chain"},
    {"models", "losses", "surfaces"},
    {"datasets"},
    {"spectral", "refiners"},
    {"tables", "linear", "quadrature", "times", "randomness", "task", "point", "free_memory", "signals"},
    {"component"},
    {"errors", "files"},
]


def modules() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of everything imported, at the top, inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    """`lossgeo.optimizers.sgd.SGD` and `optimizers/sgd.py` both live in `optimizers`."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    parts = parts[1:] if parts[0] == "lossgeo" else parts
    return parts[0]


def test_imports_point_down() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    seen = set()
    for file, tree in modules().items():
        if file == "__init__.py":
            continue
        here = room(file)
        seen.add(here)
        for name in imported(tree):
            if name.startswith("lossgeo.") and room(name) in level and room(name) != here:
                assert level[room(name)] > level[here], f"{file} imports {name}, which stands above or beside it"
    assert seen == set(level), "every module has its line"


def test_spectral_algorithms_know_nothing_of_networks() -> None:
    checked = 0
    for file, tree in modules().items():
        if file.startswith("spectral/") and not file.endswith("__init__.py"):
            own = {name for name in imported(tree) if name.startswith("lossgeo")}
            assert all(name.startswith(("lossgeo.linear.", "lossgeo.spectral.")) for name in own), file
            assert not any(name.startswith("torch.nn") for name in imported(tree))
            checked += 1
    assert checked >= 5


def test_reports_never_import_torch() -> None:
    allowed = {"lossgeo.reports", "lossgeo.study", "lossgeo.statistics", "lossgeo.tables", "lossgeo.component"}
    checked = 0
    for file, tree in modules().items():
        if room(file) in ("reports", "study", "statistics", "formats", "tables"):
            assert not any(name.split(".")[0] == "torch" for name in imported(tree)), file
            checked += 1
    assert checked >= len(allowed)


def test_only_the_command_line_and_its_display_print() -> None:
    printing = {
        file
        for file, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"cli.py", "display.py"}


def test_nothing_seeds_the_global_generators() -> None:
    seeding = {
        (file, node.attr)
        for file, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("manual_seed", "seed", "set_rng_state")
        if isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value) in ("torch", "np.random", "random")
    }
    assert seeding == set()
