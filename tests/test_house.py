"""The house's rules, read off the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lossgeo
from lossgeo.components.catalog import interfaces
from tests.support.house import FLOORS, floors, imported, rooms_and_arrows

ROOT = Path(lossgeo.__file__).parent


def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def test_imports_point_down() -> None:
    floor = {room: n for n, rooms in enumerate(FLOORS.split(" > ")) for room in rooms.split(", ")}
    arrows = rooms_and_arrows(ROOT)
    assert arrows.keys() == floor.keys()
    assert {(a, b) for a, others in arrows.items() for b in others if floor[a] >= floor[b]} == set()
    assert len(arrows) <= 20
    assert floors(arrows) <= 12
    assert sum(map(len, arrows.values())) <= 80
    for file, tree in trees().items():
        own = {name for name in imported(tree) if name.startswith("lossgeo.")}
        if file.startswith("curvature/spectral/"):
            assert all(name.startswith("lossgeo.curvature.spectral.") for name in own), file
        if file.startswith("reports/"):
            assert not any(name.split(".")[0] == "torch" for name in imported(tree)), file
        if any(name.split(".")[0] == "matplotlib" for name in imported(tree)):
            assert file.startswith("reports/figures/"), file
        private = {name for name in own for part in name.split(".") if re.match("_[a-z]", part)}
        if file == "__init__.py":  # what the front door gives is public, wherever it lives
            private -= {f"{home}.{name}" for home, names in lossgeo.HOMES.items() for name in names}
        assert all(name.startswith(f"lossgeo.{Path(file).parent}.".replace("/", ".")) for name in private), file


def test_a_file_is_one_component_an_interface_or_a_reasonable_length() -> None:
    folders = {i.__module__.removeprefix("lossgeo.").replace(".", "/") for i in interfaces().values()}
    assert {"optimizers", "probes", "landscapes/models", "runs/executors"} <= folders
    for file, tree in trees().items():
        path, classes = Path(file), [node for node in tree.body if isinstance(node, ast.ClassDef)]
        final = [c.name for c in classes if any(ast.unparse(d) == "final" for d in c.decorator_list)]
        if str(path.parent) in folders and not path.name.startswith("_"):
            assert len(final) == 1, file
        if path.name == "__init__.py" and str(path.parent) not in folders and file != "__init__.py":
            assert len(tree.body) <= 1, f"{file} is one sentence"
        assert len((ROOT / file).read_text().splitlines()) <= 300, file


def test_only_the_display_prints() -> None:
    printing = {
        file
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"display.py"}


def test_nothing_seeds_the_global_generators() -> None:
    seeding = {
        (file, node.attr)
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("manual_seed", "seed", "set_rng_state")
        if isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value) in ("torch", "np.random", "random")
    }
    assert seeding == set()
