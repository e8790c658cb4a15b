"""Whether a change of the program's form moved a number: twelve recipes, trained by two checkouts, table by table.

    python tests/bench/equal_tables.py OLD_CHECKOUT [NEW_CHECKOUT]

Every table, row and column but the times has to be equal to the last bit, and so has the theta of every checkpoint.
Runs of one recipe whose ids differ, since a component has other keys now, are compared without the columns that name
run and probe.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load_file

HERE = Path(__file__).parent
TIMES = {"seconds", "gradient_seconds"}
NAMES = {"run", "probe"}


def train(checkout: Path, out: Path) -> None:
    """Train the twelve with one checkout, on one thread."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for recipe in yaml.safe_load((HERE / "twelve.yaml").read_text()):
        text = yaml.safe_dump(recipe | {"threads": 1, "device": "cpu"}, sort_keys=False)
        command = [sys.executable, "-m", "lossgeo", "train", "-", "--out", str(out), "-q"]
        subprocess.run(command, input=text, text=True, check=True, cwd=out, env=environment, stdout=subprocess.DEVNULL)


def content(folder: Path, without: set[str]) -> dict[str, Any]:
    """Everything that has to be equal, by the name of its file."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.parquet")):
        rows = pq.read_table(file).to_pylist()
        found[file.name] = [repr({k: v for k, v in row.items() if k not in without}) for row in rows]
    for file in sorted((folder / "checkpoints").glob("*")):
        found[f"checkpoints/{file.name}"] = load_file(file)["theta"].tobytes()
    return found


def main() -> int:
    old, new = Path(sys.argv[1]).resolve(), Path(sys.argv[2] if sys.argv[2:] else HERE.parents[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        outs = [Path(scratch) / name for name in ("old", "new")]
        for out, checkout in zip(outs, (old, new), strict=True):
            out.mkdir()
            train(checkout, out)
        folders = [{f.parent.name: f.parent for f in sorted(out.glob("*/*"))} for out in outs]
        different = 0
        for name in sorted(folders[0].keys() | folders[1].keys()):
            ids = [next(side[name].iterdir()).name if name in side else None for side in folders]
            without = TIMES if ids[0] == ids[1] else TIMES | NAMES
            contents = [content(side[name] / i, without) if i else {} for side, i in zip(folders, ids, strict=True)]
            apart = sorted(
                f for f in contents[0].keys() | contents[1].keys() if contents[0].get(f) != contents[1].get(f)
            )
            different += bool(apart)
            rows = sum(len(part) for part in contents[0].values() if isinstance(part, list))
            said = f"{len(contents[0])} files, {rows} rows" if not apart else f"differ: {', '.join(apart)}"
            print(f"{name:16} {'same id' if ids[0] == ids[1] else ' | '.join(map(str, ids))}; {said}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
