"""The import graph of lossgeo at its top level, read off the source: rooms, floors and arrows.

    python tests/support/house.py [CHECKOUT]

A room is a module or package right below lossgeo/, an arrow says that something in one room imports something in
another (inside functions and under TYPE_CHECKING too), floors are the rooms of the longest chain of arrows.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

Arrows = dict[str, set[str]]

# from the top down: a room may import what stands below its own floor
FLOORS = (
    "__main__ > cli > display > runs > recipes > probes, formats > reports, saddles > optimizers > curvature"
    " > landscapes > components, tables, folders > errors, files, randomness"
)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of everything imported, names taken from a module with it: `lossgeo.errors.UsageError`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_and_arrows(root: Path) -> Arrows:
    """The rooms, and for each those that it imports."""
    arrows: Arrows = {}
    for file in sorted(root.rglob("*.py")):
        room = file.relative_to(root).parts[0].removesuffix(".py")
        if room != "__init__":  # the front door names everything and needs nothing
            arrows.setdefault(room, set()).update(imported(ast.parse(file.read_text())))
    return {
        room: {name.split(".")[1] for name in names if name.startswith("lossgeo.")} & arrows.keys() - {room}
        for room, names in arrows.items()
    }


def floors(arrows: Arrows) -> int:
    """Rooms on the longest chain of imports.

    Raises:
        RecursionError: the imports form a circle.
    """

    def below(room: str) -> int:
        return 1 + max((below(other) for other in arrows[room]), default=0)

    return max(map(below, arrows))


def main() -> None:
    root = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[2]) / "lossgeo"
    arrows = rooms_and_arrows(root)
    try:
        height = str(floors(arrows))
    except RecursionError:
        height = "a circle, no"
    print(f"{len(arrows)} rooms, {height} floors, {sum(map(len, arrows.values()))} arrows")
    for room, others in sorted(arrows.items()):
        print(f"    {room:12} -> {', '.join(sorted(others))}")


if __name__ == "__main__":
    main()
