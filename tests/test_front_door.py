"""What users' files import: the names of `lossgeo` itself, loaded when they are asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import lossgeo


def test_every_name_is_there_and_says_where_it_lives() -> None:
    assert len(lossgeo.HOMES) > 15
    for module, names in lossgeo.HOMES.items():
        for name in names:
            found = getattr(lossgeo, name)
            assert getattr(found, "__module__", module) in (module, "builtins"), name  # a State is a dict


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(lossgeo.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module: tuple(a.name for a in node.names) for node in block.body if isinstance(node, ast.ImportFrom)}
    assert seen == lossgeo.HOMES


def test_it_is_lazy() -> None:
    script = (
        "import sys, lossgeo; lossgeo.__version__; dir(lossgeo);"
        "assert not {'torch', 'pandas', 'pydantic'} & sys.modules.keys();"
        "lossgeo.Report; assert 'torch' not in sys.modules;"
        "lossgeo.Optimizer; assert 'torch' in sys.modules;"
        "from lossgeo import Model, Task"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_name_that_is_not_there() -> None:
    script = "import lossgeo\ntry: lossgeo.Trainer\nexcept AttributeError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert "Trainer" in said
