"""The page of claims, recipes/CLAIMS.md: read, and made again by its own command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from lossgeo.recipes.resolving import read_recipe, shipped_recipes

PAGE = Path(__file__).parents[2] / "recipes" / "CLAIMS.md"
WORST = ("contradicted", "inconclusive: too few", "inconclusive", "confirmed")
NO_INTERVAL = "none"
# minutes of both cores each over ten seeds: tests/bench/claims.py makes these with all others, and CI the others alone
DEAR = (
    "autoencoder_index",
    "index_against_loss",
    "loss_concentration",
    "minimum_probability",
    "spin_glass_index",
    "spin_glass_threshold",
)


def text() -> str:
    """The page."""
    return PAGE.read_text()


def claims() -> dict[str, dict[str, Any]]:
    """The claims of the shipped recipes that expect something, by the recipe's name."""
    found = {path.stem: read_recipe(path.stem).plain.get("claim") or {} for path in shipped_recipes().glob("*.yaml")}
    return {name: claim for name, claim in sorted(found.items()) if claim.get("expected")}


def shown() -> list[list[str]]:
    """The page's table, cell by cell."""
    head, _, *lines = [line for line in text().splitlines() if line.startswith("|")]
    assert head == "| recipe | where | statistic | found | 95% interval | expected | verdict | source |"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of `report claims` as the page has them: one line for all rows of one expectation of a recipe."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["where"] or ""), []).append(row)
    found = []
    for (name, where), mine in sorted(groups.items(), key=lambda item: item[0][0]):  # of a recipe, in its own order
        values = sorted({f"{row['value']:.3g}" for row in mine}, key=float)
        value = " to ".join(dict.fromkeys((values[0], values[-1])))
        every = [row[end] for row in mine for end in ("low", "high")]
        interval = NO_INTERVAL if None in every else f"[{min(every):.3g}, {max(every):.3g}]"
        worst = min((row["verdict"] for row in mine), key=WORST.index)
        shared = mine[0]
        found.append([name, where, shared["statistic"], value, interval, shared["expected"], worst, shared["source"]])
    return found


def numbers(interval: str) -> tuple[float | None, float | None]:
    """The ends of an interval as it is printed."""
    if interval == NO_INTERVAL:
        return None, None
    low, high = map(float, interval.strip("[]").split(", "))
    return low, high


def read_back() -> list[dict[str, Any]]:
    """The page's table as rows of `report claims`."""
    rows = []
    for name, where, statistic, found, interval, expected, said, source in shown():
        low, high = numbers(interval)
        row = {"recipe": name, "where": where or None, "statistic": statistic, "low": low, "high": high}
        row |= {"expected": expected, "verdict": said, "source": source}
        rows += [{**row, "value": float(value)} for value in found.split(" to ")]
    return rows


def the_command() -> str:
    """The page's command, that trains every claim over ten seeds and judges them."""
    (block,) = re.findall(r"^((?:    .+\n)+)", text(), re.MULTILINE)
    return str(block)


def made_again(command: str, folder: Path) -> list[list[str]]:
    """The lines that a command of this kind gives, run by bash in a folder."""
    program = command.replace("lossgeo", f"{shlex.quote(sys.executable)} -m lossgeo").rstrip() + " --format json"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return lines(json.loads(done.stdout))


def without(command: str, names: tuple[str, ...]) -> str:
    """The command without some recipes, and without a training that has none left."""
    for name in names:
        command = re.sub(rf"\b{name}\b ?", "", command)
    return re.sub(r"lossgeo train\s+--sweep[^;)]*", "true", command)
